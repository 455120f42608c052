//! Holds on a source's bytes: what is asked about, when, and how much of it there may be.

use super::*;
use crate::group::holds::{ABANDONED_MAX, CHECKS_PER_TICK};
use crate::group::stream::{HOLD_UNCONFIRMED_MS, UNCONFIRMED_MAX};
use crate::protocol::{Held, Hold, Offset};

fn hold(hold_id: u64) -> Op {
    Op::Hold(Hold {
        fork_key: key("fork"),
        hold_id,
        offset: None,
        incarnation: Incarnation(0),
    })
}

fn held(outcome: Outcome) -> Held {
    match outcome {
        Outcome::Held(held) => held,
        other => panic!("{other:?}"),
    }
}

/// The holds that a tick asks about.
fn asked(world: &mut World) -> Vec<u64> {
    world.others.clear();
    world.tick();
    let asked = world.others.iter().filter_map(|e| match e {
        Effect::CheckHold { hold_id, .. } => Some(*hold_id),
        _ => None,
    });
    asked.collect()
}

#[test]
fn a_hold_is_asked_about_until_it_is_confirmed_or_released() {
    let mut world = World::of(1, 0);
    world.create("a", Expiry::Never);
    for hold_id in [7, 8, 9] {
        let incarnation = held(world.ask("a", hold(hold_id))).source.incarnation;
        if hold_id == 9 {
            world.ask(
                "a",
                Op::ConfirmHold {
                    incarnation,
                    hold_id,
                },
            );
        }
    }
    world.now_ms = HOLD_UNCONFIRMED_MS - 1;
    assert!(asked(&mut world).is_empty());
    world.now_ms += 1;
    assert_eq!(asked(&mut world), [7, 8]);
    assert!(asked(&mut world).is_empty(), "once");
    let incarnation = held(world.ask("a", hold(7))).source.incarnation;
    world.ask(
        "a",
        Op::ReleaseHold {
            incarnation,
            hold_id: 7,
        },
    );
    world.now_ms += HOLD_UNCONFIRMED_MS;
    assert_eq!(asked(&mut world), [8]);
    world.ask(
        "a",
        Op::ConfirmHold {
            incarnation,
            hold_id: 8,
        },
    );
    assert!(world.group.machine.hold_checks.is_empty());
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
}

#[test]
fn unconfirmed_holds_have_a_bound_and_are_asked_about_in_shares() {
    let mut world = World::of(1, 0);
    world.create("a", Expiry::Never);
    let max = UNCONFIRMED_MAX as u64;
    for hold_id in 1..=max {
        held(world.ask("a", hold(hold_id)));
    }
    let Outcome::Refused(Refusal::Overloaded { bound }) = world.ask("a", hold(max + 1)) else {
        panic!("held without bound");
    };
    assert_eq!(bound, "unconfirmed_holds_max");
    assert!(world.group.unconfirmed_holds() >= 1.0);
    let again = held(world.ask("a", hold(1)));
    world.now_ms = HOLD_UNCONFIRMED_MS;
    assert_eq!(asked(&mut world).len(), CHECKS_PER_TICK);
    assert_eq!(asked(&mut world)[0], CHECKS_PER_TICK as u64 + 1);
    let confirm = Op::ConfirmHold {
        incarnation: again.source.incarnation,
        hold_id: 1,
    };
    world.ask("a", confirm);
    held(world.ask("a", hold(max + 1)));
}

#[test]
fn given_up_forks_are_forgotten_after_a_day_and_have_a_bound() {
    let mut world = World::of(1, 0);
    let abandon = |hold_id| Op::AbandonFork { hold_id };
    let target = || GroupTarget::Key(key("fork"));
    for hold_id in 0..ABANDONED_MAX as u64 {
        world.now_ms = hold_id;
        world.send(target(), abandon(hold_id));
    }
    world.settle();
    let refused = world.ask("fork", abandon(1 << 40));
    assert!(matches!(
        refused,
        Outcome::Refused(Refusal::Overloaded { .. })
    ));
    assert!(matches!(
        world.ask("fork", abandon(3)),
        Outcome::Abandoned { exists: false }
    ));
    world.now_ms += 24 * 3600 * 1000;
    assert!(matches!(
        world.ask("fork", abandon(1 << 40)),
        Outcome::Abandoned { exists: false }
    ));
    assert_eq!(world.group.machine.abandoned.len(), 1);
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
}

#[test]
fn an_offset_of_a_stream_that_stood_there_before_is_not_held() {
    let mut world = World::of(1, 0);
    world.create("a", Expiry::Never);
    let Outcome::Head(before) = world.ask("a", Op::Head) else {
        panic!("it stands");
    };
    let hold = |incarnation| {
        Op::Hold(Hold {
            fork_key: key("fork"),
            hold_id: 1,
            offset: Some(Offset(0)),
            incarnation,
        })
    };
    world.ask("a", Op::Delete);
    world.create("a", Expiry::Never);
    let refused = world.ask("a", hold(before.incarnation));
    assert!(matches!(refused, Outcome::Refused(Refusal::HoldExpired)));
    held(world.ask("a", hold(Incarnation(0))));
}
