//! What a stream keeps by age and by bytes: decided by the leader, the same on every replica, in whole appends.

use super::*;
use crate::protocol::{ForkOrigin, Hold, Offset, Retention};

fn retained(max_age_ms: Option<u64>, max_bytes: Option<u64>) -> Op {
    let Op::Create(create) = create(Expiry::Never) else {
        unreachable!("it is a create");
    };
    Op::Create(Create {
        retention: Retention {
            max_age_ms,
            max_bytes,
        },
        ..create
    })
}

fn tick(world: &mut World) {
    world.tick();
    world.settle();
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
}

fn from(world: &mut World) -> u64 {
    match world.ask("a", read()) {
        Outcome::Read(plan) => plan.start.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_oldest_appends_go_when_there_are_too_many_bytes() {
    let mut world = World::of(1, 0);
    world.ask("a", retained(None, Some(20)));
    for _ in 0..5 {
        world.ask("a", append("1234567"));
    }
    assert_eq!(from(&mut world), 0, "nothing goes before a tick");
    tick(&mut world);
    assert_eq!(from(&mut world), 14, "21 of 35 bytes are kept");
    assert!(!world.group.has_timed_work(world.now_ms));
    world.ask("a", append("123456"));
    tick(&mut world);
    assert_eq!(from(&mut world), 21);
    let early = Op::Read(Read {
        from: ReadFrom::At(Offset(20)),
        bytes_max: 1,
        is_live: false,
    });
    assert!(matches!(
        world.ask("a", early),
        Outcome::Refused(Refusal::OffsetExpired {
            earliest: Offset(21)
        })
    ));
}

#[test]
fn what_is_too_old_goes_and_what_is_young_stays() {
    let mut world = World::of(1, 0);
    world.ask("a", retained(Some(1000), None));
    world.now_ms = 100;
    world.ask("a", append("old"));
    world.now_ms = 600;
    world.ask("a", append("young"));
    world.now_ms = 1099;
    tick(&mut world);
    assert_eq!(from(&mut world), 0);
    world.now_ms = 1100;
    assert!(world.group.has_timed_work(world.now_ms));
    tick(&mut world);
    assert_eq!(from(&mut world), 3);
    world.now_ms = 1600;
    tick(&mut world);
    assert_eq!(from(&mut world), 8, "all of it");
    assert!(!world.group.has_timed_work(1 << 40));
    assert_eq!(tail_of(&world.ask("a", append("new"))), Some(11));
    assert_eq!(world.group.hot_bytes(), 3);
}

#[test]
fn a_fork_keeps_what_it_inherited() {
    let mut world = World::of(1, 0);
    world.ask("a", retained(None, Some(4)));
    world.ask("a", append("1234"));
    let hold = Hold {
        fork_key: key("b"),
        hold_id: 7,
        offset: None,
        incarnation: Incarnation(0),
    };
    assert!(matches!(world.ask("a", Op::Hold(hold)), Outcome::Held(_)));
    world.ask("a", append("5678"));
    tick(&mut world);
    assert_eq!(from(&mut world), 4, "its own readers get no more");
    let inherited = Op::ReadInherited {
        incarnation: Incarnation(1),
        from: Offset(0),
        to: Offset(4),
    };
    assert!(matches!(
        world.ask("a", inherited),
        Outcome::Read(plan) if plan.end.0 == 4
    ));
}

#[test]
fn who_asks_for_more_than_a_trimmed_fork_has_is_refused() {
    let mut world = World::of(1, 0);
    let Op::Create(plain) = create(Expiry::Never) else {
        unreachable!("it is a create");
    };
    let origin = ForkOrigin {
        source: key("a"),
        incarnation: Incarnation(1),
        offset: Offset(4),
        hold_id: 7,
        requested_offset: None,
        requested_sub_offset: 0,
        floor: Offset(0),
    };
    let fork = Create {
        fork: Some(origin),
        ..plain
    };
    world.ask("b", Op::Create(fork));
    world.ask("b", append("5678"));
    let trim = Op::Trim {
        offset: Offset(6),
        incarnation: Incarnation(0),
    };
    assert!(matches!(world.ask("b", trim), Outcome::Done));
    let asked = |world: &mut World, from: u64, to: u64| {
        let inherited = Op::ReadInherited {
            incarnation: Incarnation(1),
            from: Offset(from),
            to: Offset(to),
        };
        world.ask("b", inherited)
    };
    let outcome = asked(&mut world, 2, 8);
    let Outcome::Refused(Refusal::OffsetExpired { earliest }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(earliest, Offset(6));
    assert!(matches!(asked(&mut world, 6, 8), Outcome::Read(_)));
}

#[test]
fn the_same_retention_again_is_the_same_create_and_another_is_not() {
    let mut world = World::of(1, 0);
    world.ask("a", retained(Some(1000), None));
    assert!(matches!(
        world.ask("a", retained(Some(1000), None)),
        Outcome::Created(created) if !created.fresh
    ));
    assert!(matches!(
        world.ask("a", retained(Some(2000), None)),
        Outcome::Refused(Refusal::ConfigMismatch { what: "retention" })
    ));
    assert!(matches!(
        world.ask("a", create(Expiry::Never)),
        Outcome::Created(created) if created.meta.retention.max_age_ms == Some(1000)
    ));
}

#[test]
fn an_end_leaves_nothing_to_look_at() {
    let mut world = World::of(1, 0);
    world.ask("a", retained(Some(1000), Some(3)));
    world.ask("a", append("1234"));
    world.ask("a", append("5678"));
    world.ask("a", Op::Delete);
    assert!(!world.group.has_timed_work(1 << 40));
    tick(&mut world);
}
