//! What a put without an answer leaves, and who looks for it.

use super::*;

#[test]
fn a_pack_that_may_be_there_is_looked_for_also_when_its_streams_are_gone() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let pack = orders(&mut world).remove(0);
    let name = pack.0;
    answer(&mut world, ColdAnswer::Failed(name));
    world.ask("a", Op::Delete);
    world.now_ms += 60_000;
    world.others.clear();
    world.tick();
    world.settle();
    let finds = |e: &Effect| matches!(e, Effect::FindPack(found) if *found == name);
    assert!(world.others.iter().any(finds), "{:?}", world.others);
    there(&mut world, pack);
    world.now_ms += SETTINGS.grace_ms;
    world.others.clear();
    world.tick();
    let deletes = |e: &Effect| matches!(e, Effect::DeletePacks(dead) if dead[0].1 == name);
    assert!(world.others.iter().any(deletes), "{:?}", world.others);
    agrees(&world);
}

#[test]
fn what_a_leader_put_last_may_be_younger_than_its_intent() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let (name, _) = orders(&mut world).remove(0);
    // The store was out for so long; then another leader came.
    world.now_ms += SETTINGS.grace_ms * 2;
    world.group.leader_since_ms = world.now_ms;
    world.group.cold.reset();
    for is_over in [false, true] {
        world.tick();
        answer(&mut world, ColdAnswer::Missing(name));
        assert_eq!(!world.group.cold_names().contains(&name), is_over);
        world.now_ms += SETTINGS.grace_ms;
    }
    agrees(&world);
}

#[test]
fn what_is_not_there_is_looked_for_once_more_after_the_grace() {
    let mut world = cold_world();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let (name, _) = orders(&mut world).remove(0);
    world.group.cold.reset();
    world.others.clear();
    world.tick();
    assert!(matches!(&world.others[..], [Effect::FindPack(_)]));
    world.others.clear();
    answer(&mut world, ColdAnswer::Missing(name));
    let ordered = taken(&mut world);
    let (second, _) = ordered
        .into_iter()
        .next()
        .unwrap_or_else(|| orders(&mut world).remove(0));
    assert_ne!(second, name, "nothing waits for the lost one");
    world.now_ms += SETTINGS.grace_ms;
    answer(&mut world, ColdAnswer::Failed(second));
    let is_first = |e: &Effect| matches!(e, Effect::FindPack(found) if *found == name);
    world.tick();
    assert!(world.others.iter().any(is_first), "{:?}", world.others);
    answer(&mut world, ColdAnswer::Missing(name));
    assert_eq!(world.group.cold_names(), [second]);
    agrees(&world);
}

#[test]
fn many_packs_of_leaders_before_are_looked_for_a_few_at_a_time_and_all_are_given_up() {
    let mut world = cold_world();
    let names = (1..=100u64).map(|term| PackName {
        term,
        number: 1,
        nonce: term,
    });
    for name in names {
        let begin = raftproto::command::BeginPack {
            name: Some(name.to_message()),
        };
        world.group.pending.push(Kind::BeginPack(begin), None);
    }
    world.settle();
    assert_eq!(world.group.cold_figures(0).intents, 100);
    world.now_ms += SETTINGS.grace_ms;
    let mut most = 0;
    world.others.clear();
    for _ in 0..100 {
        world.tick();
        let found = std::mem::take(&mut world.others).into_iter();
        let found = found.filter_map(|e| match e {
            Effect::FindPack(name) => Some(name),
            _ => None,
        });
        let found: Vec<PackName> = found.collect();
        most = most.max(found.len());
        for name in found {
            answer(&mut world, ColdAnswer::Missing(name));
        }
        world.settle();
    }
    assert!((1..=16).contains(&most), "{most} at once");
    assert_eq!(world.group.cold_figures(0).intents, 0);
    agrees(&world);
}
