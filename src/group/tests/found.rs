//! What the simulator found, each on the smallest stage.

use super::replicas::{Cluster, Sent, others, tail_of};
use super::*;
use raftproto::peer::RaftMessage;

#[test]
fn late_words_of_a_former_term_are_no_contradiction() {
    use ::raft::prelude::MessageType as T;
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.cut.insert(old);
    let new = cluster.elect(&[a, b]);
    cluster.ask(new, "s", create(Expiry::Never));
    cluster.tick();
    let other = if new == a { b } else { a };
    let term = cluster.group(new).term() - 1;
    let late = |to, kind: T, index| RaftMessage {
        group: 1,
        r#type: kind as u32,
        to,
        from: old,
        term,
        index,
        log_term: term,
        commit: 100,
        ..RaftMessage::default()
    };
    let mut append = late(other, T::MsgAppend, 1);
    append.entries = vec![raftproto::peer::LogEntry {
        index: 2,
        term,
        ..Default::default()
    }];
    cluster.step(other, Input::Peer(append));
    cluster.step(other, Input::Peer(late(other, T::MsgHeartbeat, 0)));
    cluster.step(new, Input::Peer(late(new, T::MsgAppendResponse, 100)));
    // A follower has no use for a word to the leader that it was.
    cluster.step(
        other,
        Input::Peer(RaftMessage {
            term: term + 1,
            ..late(other, T::MsgAppendResponse, 100)
        }),
    );
    assert_eq!(cluster.group(new).trouble(), None);
    assert_eq!(cluster.group(other).trouble(), None);
}

#[test]
fn a_late_answer_to_an_earlier_process_is_no_answer_to_this_one() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.slow_disk = Some(a);
    let ask = |cluster: &mut Cluster| {
        cluster.cut.insert(leader);
        cluster.step(
            a,
            Input::Request {
                request: Request::on_key(key("s"), append("x")),
                reply_to: ReplyTo(77),
            },
        );
        let tokens = cluster
            .network
            .drain(..)
            .find_map(|(_, _, sent)| match sent {
                Sent::Ask(token, _) => Some(token),
                _ => None,
            });
        cluster.cut.clear();
        tokens.expect("the leader is asked")
    };
    let before = ask(&mut cluster);
    let start = RaftStart {
        node_id: a,
        membership: members(&[1, 2, 3]),
        settings: RaftSettings {
            seed: 8,
            ..RaftSettings::default()
        },
        ..RaftStart::default()
    };
    *cluster.group(a) = Group::new(Machine::new(1), start, 0).unwrap();
    cluster.unsynced.clear();
    cluster.slow_disk = None;
    cluster.step(a, Input::Peer(heartbeat(leader, a)));
    let after = ask(&mut cluster);
    assert!(before.abs_diff(after) > 1 << 20, "{before} {after}");
}

fn heartbeat(from: u64, to: u64) -> RaftMessage {
    RaftMessage {
        group: 1,
        r#type: ::raft::prelude::MessageType::MsgHeartbeat as u32,
        to,
        from,
        term: 1,
        ..RaftMessage::default()
    }
}

#[test]
fn what_a_checkpoint_may_hold_is_not_said_to_be_undone() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    // The others get the entry and the leader hears nothing any more.
    cluster.deaf = Some(old);
    let written = cluster.send(old, "s", append("x"));
    cluster.cut.insert(old);
    let new = cluster.elect(&[a, b]);
    assert_eq!(tail_of(&cluster.ask(new, "s", Op::Head)), 1);
    cluster.checkpoint(new);
    let fetched = cluster.fetched(new);
    let (position, term) = (fetched.position, cluster.group(new).term());
    let offer = RaftMessage {
        group: 1,
        r#type: ::raft::prelude::MessageType::MsgSnapshot as u32,
        to: old,
        from: new,
        term,
        checkpoint: Some(raftproto::peer::CheckpointInfo {
            index: position.index,
            term: position.term,
            membership: Some(fetched.membership),
        }),
        ..RaftMessage::default()
    };
    cluster.step(old, Input::Peer(offer));
    cluster.settle();
    assert_eq!(cluster.group(old).applied(), position);
    let outcome = cluster.answers.remove(&written);
    assert!(
        matches!(outcome, Some(Outcome::Refused(Refusal::OutcomeUnknown))),
        "{outcome:?}"
    );
}

#[test]
fn a_leader_that_was_to_hand_over_has_no_lease_any_more() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.ask(leader, "s", Op::Head);
    cluster.tick();
    cluster.cut.insert(a);
    cluster.step(leader, Input::TransferLeader(Some(a)));
    for _ in 0..8 {
        cluster.tick();
    }
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 0);
    // By now `a` may have got the order, and been elected by `b`.
    cluster.cut.insert(b);
    let asked = cluster.send(leader, "s", Op::Head);
    assert!(!cluster.answers.contains_key(&asked));
}

#[test]
fn a_leader_that_led_before_answers_its_new_proposals() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.tick();
    cluster.cut.insert(leader);
    // These stand nowhere else, and their places are taken by fewer entries.
    let lost: Vec<_> = (0..9)
        .map(|_| cluster.send(leader, "s", append("lost")))
        .collect();
    let other = cluster.elect(&[a, b]);
    cluster.cut.clear();
    for _ in 0..4 {
        cluster.tick();
    }
    cluster.cut.insert(other);
    let third = if other == a { b } else { a };
    while !cluster.group(leader).is_ready() {
        cluster.tick();
        if cluster.group(third).is_leader() {
            cluster.step(third, Input::TransferLeader(Some(leader)));
        }
    }
    let outcome = cluster.ask(leader, "s", append("new"));
    assert!(
        matches!(outcome, Outcome::Appended { tail, .. } if tail.0 == 3),
        "{outcome:?}"
    );
    for _ in 0..120 {
        cluster.tick();
    }
    assert!(lost.iter().all(|id| cluster.answers.contains_key(id)));
}

#[test]
fn proposals_that_were_given_up_keep_no_group_from_stopping() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.cut.insert(old);
    let lost: Vec<_> = (0..6)
        .map(|_| cluster.send(old, "s", append("lost")))
        .collect();
    let new = cluster.elect(&[a, b]);
    cluster.cut.clear();
    for _ in 0..4 {
        cluster.tick();
    }
    cluster.step(new, Input::TransferLeader(Some(old)));
    cluster.settle();
    assert_eq!(cluster.elect(&[old]), old);
    let outcome = cluster.ask(old, "s", append("kept"));
    assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
    for _ in 0..120 {
        cluster.tick();
    }
    for id in lost {
        let outcome = cluster.answers.remove(&id);
        assert!(matches!(outcome, Some(Outcome::Refused(_))), "{outcome:?}");
    }
    assert!(cluster.groups.iter().all(Group::is_idle));
}

#[test]
fn a_checkpoint_promises_no_entries_that_its_disk_may_not_have() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.tick();
    // The others commit what this one has not written.
    cluster.slow_disk = Some(a);
    cluster.ask(leader, "s", append("x"));
    cluster.tick();
    let group = cluster.group(a);
    let (applied, committed) = (group.applied().index, group.hard_state().commit);
    assert!(committed > applied, "{committed} {applied}");
    cluster.checkpoint(a);
    let plan = &cluster.checkpoints[&a].0;
    assert_eq!(plan.position.index, applied);
    assert_eq!(plan.hard_state.commit, applied);
}
