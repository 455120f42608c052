//! Groups that nobody needs, and what wakes them.

use raftproto::peer::RaftMessage;

use super::replicas::{Cluster, others};
use super::*;
use crate::protocol::Offset;

/// Ticks within which a group falls asleep, or has a leader.
const TICKS: usize = 40;

#[test]
fn a_group_sleeps_when_nobody_needs_it_and_wakes_for_a_request_and_for_the_loss_of_its_leader() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    for _ in 0..4 * TICKS {
        cluster.tick();
    }
    assert!(cluster.groups.iter().all(Group::is_asleep));
    assert!(matches!(
        cluster.ask(a, "s", append("x")),
        Outcome::Appended { .. }
    ));
    assert!(cluster.groups.iter().all(|g| !g.is_asleep()));
    for _ in 0..4 * TICKS {
        cluster.tick();
    }
    assert!(cluster.groups.iter().all(Group::is_asleep));
    cluster.cut.insert(leader);
    cluster.step(a, Input::LinkLost(leader));
    cluster.step(b, Input::LinkLost(leader));
    let new = cluster.elect(&[a, b]);
    assert!(matches!(
        cluster.ask(new, "s", append("y")),
        Outcome::Appended { .. }
    ));
}

#[test]
fn a_sleeping_replica_answers_who_watches_a_stream_that_it_does_not_know() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    for _ in 0..4 * TICKS {
        cluster.tick();
    }
    assert!(cluster.group(a).is_asleep());
    // The leader's answer is lost.
    cluster.deaf = Some(a);
    let asked = cluster.send(a, "none", Op::Watch { core: 0 });
    for _ in 0..4 * TICKS {
        cluster.tick();
    }
    let outcome = cluster.answers.remove(&asked);
    assert!(matches!(outcome, Some(Outcome::Refused(_))), "{outcome:?}");
}

/// Who looks for copies of damaged bytes asks all replicas at once, and readers of old bytes come to any. Two followers that woke for
/// it heard no leader, since it slept, and elected another one, each time.
#[test]
fn sleeping_followers_that_are_asked_for_their_copies_do_not_elect_another_leader() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(leader);
    let Outcome::Created(created) = cluster.ask(leader, "s", create(Expiry::Never)) else {
        panic!("it is new")
    };
    cluster.ask(leader, "s", append("xyz"));
    for _ in 0..4 * TICKS {
        cluster.tick();
    }
    let catch_up = || {
        Op::Read(Read {
            from: ReadFrom::Start,
            bytes_max: 1,
            is_live: false,
        })
    };
    for _ in 0..4 {
        for node in [a, b] {
            let copies = Op::ReadInherited {
                incarnation: created.meta.incarnation,
                from: Offset(0),
                to: Offset(1),
            };
            assert!(matches!(cluster.ask(node, "s", copies), Outcome::Read(_)));
            assert!(matches!(
                cluster.ask(node, "s", catch_up()),
                Outcome::Read(_)
            ));
            assert!(cluster.group(node).is_asleep());
        }
        for _ in 0..4 * TICKS {
            cluster.tick();
        }
        assert!(cluster.group(leader).is_leader());
    }
}

#[test]
fn the_only_voter_does_not_lead_before_its_log_is_on_disk() {
    let start = RaftStart {
        node_id: 2,
        membership: members(&[2]),
        ..RaftStart::default()
    };
    let mut group = Group::new(Machine::new(1), start, 0).unwrap();
    let mut now = Now {
        wall_ms: 1_000,
        monotonic_us: 1_000_000,
    };
    let mut effects = Vec::new();
    // The leader that went wrote on before it knew that it was out.
    let append = RaftMessage {
        group: 1,
        r#type: ::raft::prelude::MessageType::MsgAppend as u32,
        to: 2,
        from: 1,
        term: 5,
        entries: vec![raftproto::peer::LogEntry {
            index: 1,
            term: 5,
            ..Default::default()
        }],
        ..RaftMessage::default()
    };
    group.step(now, Input::Peer(append), &mut effects);
    let mut numbers = Vec::new();
    for round in 0..2 * TICKS {
        now.monotonic_us += 50_000;
        group.step(now, Input::RaftTick, &mut effects);
        let new = effects.drain(..).filter_map(|e| match e {
            Effect::Persist(persist) => Some(persist.number),
            _ => None,
        });
        numbers.extend(new);
        assert!(round >= TICKS || !group.is_leader());
        if round >= TICKS {
            for number in std::mem::take(&mut numbers) {
                group.step(now, Input::Persisted(number), &mut effects);
            }
        }
    }
    assert!(group.is_leader());
}
