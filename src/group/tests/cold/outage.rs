//! How soon groups try again when the store was out.

use super::*;
use crate::group::Outage;

/// Lets time pass in steps of a tenth of a second until the group orders its pack again; answers how long it took.
fn until_tried(world: &mut World, outage: &mut Outage, name: PackName) -> u64 {
    let begun_ms = world.now_ms;
    loop {
        world.now_ms += 100;
        outage.hasten(world.now_ms, std::iter::once(&mut world.group));
        if let Some((again, _)) = orders(world).first() {
            assert_eq!(*again, name);
            return world.now_ms - begun_ms;
        }
        assert!(world.now_ms - begun_ms < 100_000, "never");
    }
}

/// A pack that the store did not take for some minutes, and that is put again in a minute.
fn failing(group: u32) -> (World, PackName) {
    let mut world = World::of(group, 0);
    world.group.use_cold_store(SETTINGS);
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    let (name, _) = orders(&mut world).remove(0);
    for _ in 0..10 {
        answer(&mut world, ColdAnswer::Failed(name));
        world.now_ms += 60_000;
        assert_eq!(orders(&mut world).len(), 1);
    }
    answer(&mut world, ColdAnswer::Failed(name));
    (world, name)
}

#[test]
fn groups_that_wait_for_a_store_try_soon_when_it_takes_a_pack_of_another() {
    let (mut world, name) = failing(1);
    let mut outage = Outage::default();
    outage.failed(world.now_ms);
    let probed_ms = until_tried(&mut world, &mut outage, name);
    assert!((5_000..=5_100).contains(&probed_ms), "{probed_ms} ms");
    outage.failed(world.now_ms);
    answer(&mut world, ColdAnswer::Failed(name));
    outage.taken(world.now_ms);
    assert!(until_tried(&mut world, &mut outage, name) <= 1_100);
}

#[test]
fn a_pack_that_is_never_taken_is_not_put_more_often_where_others_are() {
    let (mut world, _) = failing(1);
    let mut outage = Outage::default();
    outage.failed(world.now_ms);
    let mut tries = 0;
    // Others succeed every three seconds of ten minutes.
    for second in 0..600 {
        world.now_ms += 1_000;
        if second % 3 == 0 {
            outage.taken(world.now_ms);
        }
        outage.hasten(world.now_ms, std::iter::once(&mut world.group));
        for (name, _) in orders(&mut world) {
            tries += 1;
            outage.failed(world.now_ms);
            answer(&mut world, ColdAnswer::Failed(name));
        }
    }
    assert!((9..=11).contains(&tries), "{tries} tries");
}

#[test]
fn groups_try_in_turn_while_the_store_is_out() {
    let mut worlds: Vec<World> = (1..=3).map(|group| failing(group).0).collect();
    let begun_ms = worlds[0].now_ms;
    let mut outage = Outage::default();
    outage.failed(begun_ms);
    let mut tried = Vec::new();
    for tenth in 1..=250 {
        let now_ms = begun_ms + 100 * tenth;
        outage.hasten(now_ms, worlds.iter_mut().map(|w| &mut w.group));
        for (world, number) in worlds.iter_mut().zip(1..) {
            world.now_ms = now_ms;
            for (name, _) in orders(world) {
                tried.push((tenth / 10, number));
                answer(world, ColdAnswer::Failed(name));
            }
        }
    }
    assert_eq!(tried, [(5, 1), (10, 2), (15, 3), (20, 1), (25, 2)]);
}

#[test]
fn many_orders_that_fail_at_once_are_one_failure() {
    let mut world = cold_world();
    for term in 1..=10 {
        let name = PackName {
            term,
            number: 1,
            nonce: term,
        };
        let begin = raftproto::command::BeginPack {
            name: Some(name.to_message()),
        };
        world.group.pending.push(Kind::BeginPack(begin), None);
    }
    world.settle();
    world.create("a", Expiry::Never);
    world.ask("a", append("12345"));
    world.now_ms += SETTINGS.flush_age_ms;
    world.others.clear();
    world.tick();
    let found: Vec<_> = std::mem::take(&mut world.others);
    assert_eq!(found.len(), 10);
    for effect in found {
        let Effect::FindPack(name) = effect else {
            continue;
        };
        answer(&mut world, ColdAnswer::Failed(name));
    }
    let mut ordered = taken(&mut world);
    ordered.extend(orders(&mut world));
    let name = ordered[0].0;
    answer(&mut world, ColdAnswer::Failed(name));
    world.now_ms += 500;
    assert_eq!(orders(&mut world).len(), 1, "{name} is tried again soon");
}
