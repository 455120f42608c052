//! While nodes of two versions are side by side, nothing is written that the older ones could not apply.

use raftproto::version::of_batch;

use super::*;
use crate::meta::level::raise;
use crate::protocol::{Member, MemberChange, Retention};

/// A cluster whose older nodes apply commands up to `level_first`.
fn at(level_first: u32, group: u32) -> World {
    let settings = RaftSettings {
        level_first,
        ..RaftSettings::default()
    };
    World::with(group, 0, settings)
}

fn retained() -> Op {
    let Op::Create(create) = create(Expiry::Never) else {
        unreachable!("it creates");
    };
    Op::Create(Create {
        retention: Retention {
            max_bytes: Some(100),
            ..Retention::default()
        },
        ..create
    })
}

fn remove(node: u64) -> Op {
    let member = |raft_id| Member {
        raft_id,
        address: "host:4436".to_owned(),
        drained: false,
    };
    Op::ChangeMembers {
        base: vec![member(1), member(2)],
        change: MemberChange::Remove(node),
    }
}

fn newest(world: &World) -> u32 {
    world.log.last().map_or(0, |payload| of_batch(payload))
}

#[test]
fn a_command_that_a_member_does_not_know_is_refused_until_the_level_has_risen() {
    let mut world = at(2, 1);
    let refused = world.ask("a", retained());
    assert!(matches!(refused, Outcome::Refused(Refusal::Unavailable)));
    world.create("b", Expiry::Never);
    assert_eq!(newest(&world), 1, "what needs no newer version has none");
    world.group.note_level(3);
    assert!(matches!(world.ask("a", retained()), Outcome::Created(_)));
    assert_eq!(newest(&world), 3);
}

#[test]
fn an_old_command_has_its_new_meaning_from_the_level_on() {
    let mut world = at(3, 0);
    world.send(GroupTarget::Meta, remove(2));
    world.settle();
    assert_eq!(newest(&world), 1);

    world.step(Input::RaiseLevel(raise(
        4,
        &world.group.tables().unwrap().members,
    )));
    world.settle();
    assert_eq!((newest(&world), world.group.level()), (4, 4));
    assert_eq!(world.group.tables().unwrap().level, 4);
    world.send(GroupTarget::Meta, remove(2));
    world.settle();
    assert_eq!(newest(&world), 4);
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
}

#[test]
fn a_committed_entry_says_that_its_version_may_be_written() {
    let mut world = at(3, 0);
    world.step(Input::RaiseLevel(raise(4, &[])));
    world.settle();
    assert_eq!(world.group.level(), 4);
    // The members that were asked are not those that there are.
    let mut world = at(3, 0);
    world.send(GroupTarget::Meta, remove(2));
    world.settle();
    world.step(Input::RaiseLevel(raise(4, &[])));
    world.settle();
    assert_eq!((newest(&world), world.group.level()), (1, 3));
}
