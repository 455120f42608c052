//! A node that lost the answer of a producer's append sends it again: it is done once, whatever became of the stream.

use super::replicas::{Cluster, Sent, TICKS, others, tail_of};
use super::*;
use crate::protocol::Producer;

/// The first of a producer.
fn first() -> Op {
    first_of("p")
}

fn first_of(id: &str) -> Op {
    let Op::Append(op) = append("x") else {
        unreachable!("it is one");
    };
    Op::Append(Append {
        producer: Some(Producer {
            id: id.to_owned(),
            epoch: 0,
            seq: 0,
        }),
        ..op
    })
}

/// A cluster at a level, its leader, and a follower.
fn at_level(level: u32) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new();
    for group in &mut cluster.groups {
        group.note_level(level);
    }
    let leader = cluster.elect(&[1, 2, 3]);
    let (follower, _) = others(leader);
    (cluster, leader, follower)
}

/// The same, with a stream of which all have heard.
fn all_know(level: u32) -> (Cluster, u64, u64) {
    let (mut cluster, leader, follower) = at_level(level);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.tick();
    cluster.tick();
    (cluster, leader, follower)
}

/// A stream, and what a follower is answered whose first question was heard or not, and whose answer was not; what the leader does
/// meanwhile.
fn asked_twice(
    level: u32,
    is_heard: bool,
    meanwhile: impl FnOnce(&mut Cluster, u64),
) -> (Outcome, u64) {
    let (mut cluster, leader, follower) = all_know(level);
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

/// A cluster of which one node, the second of these, has not heard of the stream that stands.
fn one_lags() -> (Cluster, u64, u64) {
    let (mut cluster, leader, follower) = at_level(5);
    cluster.tick();
    cluster.cut.insert(follower);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.cut.clear();
    (cluster, leader, follower)
}

/// Asks a node; what it sends is not carried yet.
fn begin(cluster: &mut Cluster, node: u64, op: Op) -> (u64, u64) {
    cluster.asked += 1;
    let reply_to = ReplyTo(cluster.asked);
    let request = Request::on_key(key("s"), op);
    cluster.step(node, Input::Request { request, reply_to });
    (node, reply_to.0)
}

/// Carries what is under way up to a request that is sent on, and takes that away.
fn taken(cluster: &mut Cluster) -> (u64, u64, Sent) {
    loop {
        let is_asked = |sent: &(u64, u64, Sent)| matches!(sent.2, Sent::Ask(..));
        if let Some(place) = cluster.network.iter().position(is_asked) {
            return cluster.network.remove(place).expect("it is there");
        }
        assert!(cluster.settle_one(), "nothing is sent on");
    }
}

fn is_appended(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Appended {
            duplicate: false,
            ..
        }
    )
}

#[test]
fn a_first_sending_that_comes_last_is_done_to_no_stream_that_has_begun_since() {
    let (mut cluster, leader, follower) = all_know(5);
    let asked = begin(&mut cluster, follower, first());
    let late = taken(&mut cluster);
    cluster.step(follower, Input::AnswersLost(leader));
    cluster.tick();
    let outcome = cluster.answers.remove(&asked).expect("an answer");
    assert!(is_appended(&outcome), "{outcome:?}");
    made_anew(&mut cluster, leader);
    cluster.network.push_back(late);
    cluster.settle();
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 0);
}

#[test]
fn a_node_that_has_not_heard_of_a_stream_asks_for_it_at_once() {
    let (mut cluster, leader, follower) = one_lags();
    let outcome = cluster.ask(follower, "s", first());
    assert!(is_appended(&outcome), "{outcome:?}");
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 1);
}

#[test]
fn what_a_leader_named_is_known_to_the_next_who_asks() {
    let (mut cluster, leader, follower) = one_lags();
    // It never hears of it but by answers.
    cluster.lose_log(follower);
    assert!(cluster.group(follower).trouble().is_some());
    for (id, sendings) in [("p", 2), ("q", 1)] {
        let before = cluster.asked;
        let outcome = cluster.ask(follower, "s", first_of(id));
        assert!(is_appended(&outcome), "{outcome:?}");
        // One is the request itself.
        assert_eq!(cluster.asked - before - 1, sendings);
    }
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 2);
}

#[test]
fn a_named_stream_that_is_made_anew_is_named_again() {
    let (mut cluster, leader, follower) = one_lags();
    let asked = begin(&mut cluster, follower, first());
    let unheard = taken(&mut cluster);
    cluster.network.push_back(unheard);
    cluster.settle_one();
    let second = loop {
        let sent = taken(&mut cluster);
        if sent.0 == follower {
            break sent;
        }
    };
    made_anew(&mut cluster, leader);
    cluster.network.push_back(second);
    cluster.settle();
    let outcome = cluster.answers.remove(&asked).expect("an answer");
    assert!(is_appended(&outcome), "{outcome:?}");
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 1);
}

#[test]
fn who_leads_by_the_time_that_it_is_told_of_a_stream_does_it_itself() {
    let (mut cluster, leader, follower) = one_lags();
    let asked = begin(&mut cluster, follower, first());
    let is_told = |sent: &(u64, u64, Sent)| matches!(sent.2, Sent::Reply(..));
    let told = loop {
        if let Some(place) = cluster.network.iter().position(is_told) {
            break cluster.network.remove(place).expect("it is there");
        }
        assert!(cluster.settle_one(), "it is told nothing");
    };
    lead_at(&mut cluster, leader, follower);
    cluster.network.push_back(told);
    cluster.settle();
    let outcome = cluster.answers.remove(&asked).expect("an answer");
    assert!(is_appended(&outcome), "{outcome:?}");
    assert_eq!(tail_of(&cluster.ask(follower, "s", Op::Head)), 1);
}

#[test]
fn who_leads_by_the_time_that_it_asks_again_does_not_do_it_to_a_new_stream() {
    let (mut cluster, leader, follower) = all_know(5);
    let asked = begin(&mut cluster, follower, first());
    let _lost = taken(&mut cluster);
    made_anew(&mut cluster, leader);
    lead_at(&mut cluster, leader, follower);
    cluster.step(follower, Input::AnswersLost(leader));
    for _ in 0..TICKS {
        cluster.tick();
    }
    let outcome = cluster.answers.remove(&asked).expect("an answer");
    let is_unknown = matches!(outcome, Outcome::Refused(Refusal::OutcomeUnknown));
    assert!(is_unknown, "{outcome:?}");
    assert_eq!(tail_of(&cluster.ask(follower, "s", Op::Head)), 0);
}

/// Hands over.
fn lead_at(cluster: &mut Cluster, from: u64, to: u64) {
    cluster.step(from, Input::TransferLeader(Some(to)));
    for _ in 0..TICKS {
        cluster.tick();
        if cluster.group(to).is_ready() {
            return;
        }
    }
    panic!("it does not lead");
}
