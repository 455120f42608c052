//! What is found in the store while the log stands still, and when what nobody needs any more goes.

use super::*;

/// Where the pack's streams stand: found, published or not.
fn found_pack() -> (World, Pack) {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let pack = orders(&mut world).remove(0);
    world.group.cold.reset();
    world.others.clear();
    world.tick();
    let finds = |e: &Effect| matches!(e, Effect::FindPack(found) if *found == pack.0);
    assert!(world.others.iter().any(finds), "{:?}", world.others);
    world.others.clear();
    (world, pack)
}

fn found((name, chunks): &Pack) -> Input {
    Input::Cold(Box::new(ColdAnswer::There {
        name: *name,
        object_bytes: 100,
        chunks: chunks.clone(),
    }))
}

#[test]
fn what_is_found_is_proposed_once_while_the_log_stands_still() {
    let (mut world, pack) = found_pack();
    world.step(found(&pack));
    world.flush();
    for _ in 0..10 {
        world.tick();
        world.now_ms += 250;
    }
    assert!(world.others.is_empty(), "{:?}", world.others);
    assert!(!world.group.has_pending());
    world.settle();
    world.tick();
    assert!(world.others.is_empty(), "nothing is left to put");
    let figures = world.group.cold_figures(0);
    assert_eq!((figures.packs, figures.behind_bytes), (1, 0));
    agrees(&world);
}

#[test]
fn what_was_found_is_looked_for_again_when_its_command_is_lost() {
    let (mut world, pack) = found_pack();
    world.step(found(&pack));
    world.group.pending = Default::default();
    world.now_ms += 60_000;
    world.tick();
    assert!(matches!(&world.others[..], [Effect::FindPack(name)] if *name == pack.0));
    world.step(found(&pack));
    world.settle();
    assert_eq!(world.group.cold_figures(0).packs, 1);
    agrees(&world);
}

#[test]
fn who_was_told_of_an_object_has_the_grace_to_read_it_also_when_its_end_was_proposed_long_before() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    flushed(&mut world, "a", "12345");
    world.group.shed_hot_bytes(0);
    world.tick();
    world.now_ms += SETTINGS.grace_ms;
    world.send(GroupTarget::Key(key("a")), Op::Delete);
    world.flush();
    // The log stands still for long, and until the end readers are told of the object.
    world.now_ms += SETTINGS.grace_ms * 2;
    world.settle();
    world.others.clear();
    world.tick();
    assert!(world.others.is_empty(), "{:?}", world.others);
    world.now_ms += SETTINGS.grace_ms - 1;
    world.tick();
    assert!(world.others.is_empty(), "{:?}", world.others);
    world.now_ms += 1;
    assert!(world.group.has_timed_work(world.now_ms));
    world.tick();
    assert!(matches!(&world.others[..], [Effect::DeletePacks(_)]));
    agrees(&world);
}

#[test]
fn what_a_start_finds_dead_is_deleted_a_grace_later() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    flushed(&mut world, "a", "12345");
    world.tick();
    world.ask("a", Op::Delete);
    world.now_ms += SETTINGS.grace_ms;
    // Another state under the same leader stands for a start: nobody knows since when it is so.
    world.group.cold.is_another();
    world.others.clear();
    world.tick();
    assert!(world.others.is_empty(), "{:?}", world.others);
    world.now_ms += SETTINGS.grace_ms;
    world.tick();
    assert!(matches!(&world.others[..], [Effect::DeletePacks(_)]));
}
