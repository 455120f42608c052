//! Disks that stand still, and nodes that have long been cut off: what gathers there has a bound, and nobody waits in vain.

use ::raft::prelude::MessageType;
use raftproto::peer::{LogEntry as PeerEntry, RaftMessage};

use super::replicas::{Cluster, TICKS, others};
use super::*;
use crate::group::replicas::UNSYNCED_MAX;
use crate::protocol::Producer;

/// What a follower has to say waits for its disk in the order of the steps: while that is full they must not gather for ever.
#[test]
fn a_disk_that_stands_still_gathers_a_bounded_number_of_answers() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (follower, other) = others(leader);
    cluster.ask(leader, "a", create(Expiry::Never));
    cluster.slow_disk = Some(follower);
    cluster.ask(leader, "a", append("two"));
    for _ in 0..3 * UNSYNCED_MAX {
        cluster.tick();
    }
    let unsynced = cluster.group(follower).footprint().unsynced;
    assert!(unsynced > 100, "it heard nothing: {unsynced}");
    assert!(unsynced <= UNSYNCED_MAX + 1, "{unsynced} readies wait");
    assert!(cluster.group(leader).is_ready(), "it was deposed");
    cluster.slow_disk = None;
    cluster.settle();
    cluster.ask(leader, "a", append("three"));
    for _ in 0..TICKS {
        cluster.tick();
    }
    assert_eq!(cluster.group(follower).footprint().unsynced, 0);
    let hashes = [leader, follower, other].map(|node| cluster.group(node).state_hash());
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
}

/// After a stop in good order both that stay are needed: one whose disk takes longer than the election time-out costs only its time.
#[test]
fn a_leader_is_not_deposed_by_a_sync_that_takes_long() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (follower, gone) = others(leader);
    cluster.ask(leader, "a", create(Expiry::Never));
    cluster.cut.insert(gone);
    cluster.slow_disk = Some(follower);
    let asked = cluster.send(leader, "a", append("x"));
    for _ in 0..5 * TICKS {
        cluster.tick();
        assert!(cluster.group(leader).is_leader(), "it was deposed");
    }
    assert!(!cluster.answers.contains_key(&asked), "nobody else has it");
    cluster.slow_disk = None;
    cluster.settle();
    let told = cluster.answers.remove(&asked);
    assert!(matches!(told, Some(Outcome::Appended { .. })), "{told:?}");
}

/// That a leader was heard is said at once, but in a term that is not on disk yet.
#[test]
fn a_heartbeat_is_answered_beside_a_sync_once_its_term_is_on_disk() {
    let start = RaftStart {
        node_id: 1,
        membership: members(&[1, 2, 3]),
        ..RaftStart::default()
    };
    let mut group = Group::new(Machine::new(1), start, 0).unwrap();
    let message = |kind: MessageType, entries: Vec<PeerEntry>| RaftMessage {
        group: 1,
        r#type: kind as u32,
        to: 1,
        from: 2,
        term: 6,
        entries,
        ..RaftMessage::default()
    };
    let entry = PeerEntry {
        index: 1,
        term: 6,
        ..PeerEntry::default()
    };
    let mut step = |input: Input| {
        let mut effects = Vec::new();
        group.step(Now::default(), input, &mut effects);
        let persist = effects.iter().find_map(|e| match e {
            Effect::Persist(persist) => Some(persist.number),
            _ => None,
        });
        let said = effects.iter().filter_map(|e| match e {
            Effect::Send(message) => Some(message.r#type),
            _ => None,
        });
        (persist, said.collect::<Vec<u32>>())
    };
    let answer = MessageType::MsgHeartbeatResponse as u32;
    let heartbeat = || Input::Peer(message(MessageType::MsgHeartbeat, Vec::new()));
    let (term, said) = step(heartbeat());
    assert!(said.is_empty(), "its term is not on disk: {said:?}");
    assert!(step(heartbeat()).1.is_empty(), "nor is it by now");
    let (_, said) = step(Input::Persisted(term.expect("the term is written")));
    assert_eq!(said, [answer; 2]);
    let (written, said) = step(Input::Peer(message(MessageType::MsgAppend, vec![entry])));
    assert!(written.is_some() && said.is_empty(), "{said:?}");
    assert_eq!(step(heartbeat()).1, [answer]);
    let (_, said) = step(Input::Persisted(written.expect("the entry is written")));
    assert_eq!(said, [MessageType::MsgAppendResponse as u32]);
}

/// A leader's own disk too: it leads no more, and others do.
#[test]
fn a_leader_whose_disk_stands_still_for_too_long_leads_no_more() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "a", create(Expiry::Never));
    cluster.slow_disk = Some(leader);
    let mut rounds = 0;
    while cluster.group(leader).is_leader() {
        cluster.send(leader, "a", append("x"));
        rounds += 1;
        if rounds % 10 == 0 {
            cluster.tick();
        }
        assert!(rounds < 3 * UNSYNCED_MAX, "it leads for ever");
    }
    let (one, two) = others(leader);
    let next = cluster.elect(&[one, two]);
    cluster.ask(next, "a", append("y"));
    cluster.slow_disk = None;
    cluster.settle();
    for _ in 0..TICKS {
        cluster.tick();
    }
    let hashes = [1, 2, 3].map(|node| cluster.group(node).state_hash());
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
}

/// Who asks a node that is cut off is told soon to go elsewhere, once an election has had its time.
#[test]
fn a_node_that_has_been_without_a_leader_for_long_lets_nobody_wait() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "a", create(Expiry::Never));
    let (lonely, _) = others(leader);
    cluster.cut.insert(lonely);
    let ticks_until_told = |cluster: &mut Cluster| {
        let id = cluster.send(lonely, "a", append("x"));
        let mut ticks = 0;
        while !cluster.answers.contains_key(&id) {
            cluster.tick();
            ticks += 1;
            assert!(ticks < 400, "no answer");
        }
        let told = cluster.answers.remove(&id).expect("it was told");
        (ticks, told)
    };
    // The leader that it knew of says nothing: that may be done.
    let (_, told) = ticks_until_told(&mut cluster);
    assert!(
        matches!(told, Outcome::Refused(Refusal::OutcomeUnknown)),
        "{told:?}"
    );
    let (first, told) = ticks_until_told(&mut cluster);
    assert!(
        matches!(told, Outcome::Refused(Refusal::Unavailable)),
        "{told:?}"
    );
    let (second, told) = ticks_until_told(&mut cluster);
    assert!(
        matches!(told, Outcome::Refused(Refusal::Unavailable)),
        "{told:?}"
    );
    assert!(first <= 61 && second <= 11, "{first} and {second} ticks");
    cluster.cut.clear();
    for _ in 0..TICKS {
        cluster.tick();
    }
    assert!(cluster.group(lonely).leader() != 0);
}

/// What a producer sent may be asked again of the next leader; what the first one did with it stays unknown if there is none.
#[test]
fn a_repeated_append_that_nobody_takes_stays_in_doubt() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "a", create(Expiry::Never));
    let (lonely, _) = others(leader);
    cluster.cut.insert(lonely);
    let id = cluster.send(lonely, "a", produce("x"));
    let mut ticks = 0;
    while !cluster.answers.contains_key(&id) {
        cluster.step(lonely, Input::AnswersLost(leader));
        cluster.tick();
        ticks += 1;
        assert!(ticks < 400, "no answer");
    }
    let told = cluster.answers.remove(&id).expect("it was told");
    assert!(
        matches!(told, Outcome::Refused(Refusal::OutcomeUnknown)),
        "{told:?}"
    );
}

/// Where the stream has ended since, the refusal of the second attempt says nothing about the first.
#[test]
fn a_repeated_append_to_a_stream_that_has_ended_stays_in_doubt() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "a", create(Expiry::Never));
    let (asked, _) = others(leader);
    // The append arrives and is done, and its answer is lost.
    cluster.deaf = Some(asked);
    let id = cluster.send(asked, "a", produce("x"));
    cluster.settle();
    assert!(!cluster.answers.contains_key(&id), "it was answered");
    assert_eq!(tail_of(&cluster.ask(leader, "a", Op::Head)), Some(1));
    cluster.ask(leader, "a", Op::Delete);
    cluster.deaf = None;
    cluster.step(asked, Input::AnswersLost(leader));
    for _ in 0..TICKS {
        cluster.tick();
    }
    let told = cluster.answers.remove(&id).expect("it was told");
    assert!(
        matches!(told, Outcome::Refused(Refusal::OutcomeUnknown)),
        "{told:?}"
    );
}

fn produce(body: &'static str) -> Op {
    let Op::Append(mut op) = append(body) else {
        unreachable!("an append");
    };
    op.producer = Some(Producer {
        id: "p".to_owned(),
        epoch: 0,
        seq: 0,
    });
    Op::Append(op)
}
