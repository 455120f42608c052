//! A node that lost the answer of a producer's append sends it again: it is done once, whatever became of the stream.

use super::replicas::{Cluster, TICKS, others, tail_of};
use super::*;
use crate::protocol::Producer;

/// The first of a producer.
fn first() -> Op {
    let Op::Append(op) = append("x") else {
        unreachable!("it is one");
    };
    Op::Append(Append {
        producer: Some(Producer {
            id: "p".to_owned(),
            epoch: 0,
            seq: 0,
        }),
        ..op
    })
}

/// A stream, and what a follower is answered whose first question was heard or not, and whose answer was not; what the leader does
/// meanwhile.
fn asked_twice(
    level: u32,
    is_heard: bool,
    meanwhile: impl FnOnce(&mut Cluster, u64),
) -> (Outcome, u64) {
    let mut cluster = Cluster::new();
    for group in &mut cluster.groups {
        group.note_level(level);
    }
    let leader = cluster.elect(&[1, 2, 3]);
    let (follower, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.tick();
    cluster.tick();
    match is_heard {
        true => cluster.deaf = Some(follower),
        false => drop(cluster.cut.insert(follower)),
    }
    let asked = cluster.send(follower, "s", first());
    meanwhile(&mut cluster, leader);
    cluster.deaf = None;
    cluster.cut.clear();
    cluster.step(follower, Input::AnswersLost(leader));
    for _ in 0..TICKS {
        cluster.tick();
    }
    let outcome = cluster.answers.remove(&asked).expect("an answer");
    (outcome, tail_of(&cluster.ask(leader, "s", Op::Head)))
}

fn made_anew(cluster: &mut Cluster, leader: u64) {
    let outcome = cluster.ask(leader, "s", Op::Delete);
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    cluster.ask(leader, "s", create(Expiry::Never));
}

#[test]
fn the_stream_that_it_was_sent_to_takes_it_once() {
    for is_heard in [true, false] {
        let (outcome, tail) = asked_twice(5, is_heard, |_, _| {});
        assert!(
            matches!(&outcome, Outcome::Appended { tail, duplicate, .. } if tail.0 == 1 && *duplicate == is_heard),
            "{outcome:?}"
        );
        assert_eq!(tail, 1);
    }
}

#[test]
fn a_stream_that_has_begun_since_does_not_take_it() {
    for is_heard in [true, false] {
        let (outcome, tail) = asked_twice(5, is_heard, made_anew);
        let is_unknown = matches!(outcome, Outcome::Refused(Refusal::OutcomeUnknown));
        assert!(is_unknown, "{outcome:?}");
        assert_eq!(tail, 0);
    }
}

#[test]
fn a_cluster_of_which_a_member_knows_no_such_append_takes_it_as_it_did() {
    let (outcome, tail) = asked_twice(4, true, made_anew);
    assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
    assert_eq!(tail, 1);
}
