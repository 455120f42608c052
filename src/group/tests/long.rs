//! Entries whose payload is put together in several steps.

use super::*;

/// More than two steps put together.
const LONG_BYTES: usize = (9 << 20) + 1;

fn long() -> Op {
    let Op::Append(append) = append("") else {
        unreachable!("it is one");
    };
    Op::Append(Append {
        body: Bytes::from(vec![b'x'; LONG_BYTES]),
        ..append
    })
}

#[test]
fn a_long_entry_takes_steps_and_what_comes_after_it_waits() {
    let mut world = World::of(1, 0);
    world.create("a", Expiry::Never);
    let target = || GroupTarget::Key(key("a"));
    let first = world.send(target(), long());
    let second = world.send(target(), append("y"));
    let proposed = world.log.len();
    let mut steps = 0;
    while world.log.len() == proposed {
        assert!(world.group.has_pending());
        assert!(world.group.uncommitted() > 0.0);
        world.flush();
        steps += 1;
    }
    assert_eq!(steps, 3);
    assert_eq!(world.log.len(), proposed + 2);
    assert!(!world.group.has_pending());
    world.settle();
    let tails = [first, second].map(|id| tail_of(&world.answer(id)));
    let end = LONG_BYTES as u64;
    assert_eq!(tails, [Some(end), Some(end + 1)]);
    assert_eq!(world.replica().state_hash(), world.group.state_hash());
    assert_eq!(world.group.uncommitted_bytes, 0);
}

#[test]
fn a_long_entry_that_is_given_up_half_way_was_not_done() {
    let mut world = World::of(1, 0);
    world.create("a", Expiry::Never);
    let id = world.send(GroupTarget::Key(key("a")), long());
    world.flush();
    assert!(world.group.has_pending() && world.answers.is_empty());
    world.step(Input::GiveUpLate);
    assert!(matches!(
        world.answer(id),
        Outcome::Refused(Refusal::Overloaded { .. })
    ));
    assert!(!world.group.has_pending());
    world.settle();
    assert_eq!(tail_of(&world.ask("a", append("y"))), Some(1));
    assert_eq!(world.group.uncommitted_bytes, 0);
}
