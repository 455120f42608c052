//! What the simulator found, each on the smallest stage.

use super::replicas::{Cluster, Sent, others, tail_of};
use super::*;
use ::raft::prelude::MessageType;
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

/// Seeds 78 and 91 of the simulator, once members came and went: the answer to an installed checkpoint was lost, and in a
/// group with nothing else to say the leader offered it for ever to a replica that did not answer.
#[test]
fn a_checkpoint_that_is_there_already_is_answered_again() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "s", create(Expiry::Never));
    let (follower, _) = others(leader);
    cluster.tick();
    let has = cluster.group(follower).applied();
    let (commit, term) = (
        cluster.group(follower).commit(),
        cluster.group(follower).term(),
    );
    assert_eq!(has.index, commit);
    for (index, of_term, is_answered) in [(1, 1, true), (commit, has.term, true)] {
        let offer = RaftMessage {
            group: 1,
            r#type: MessageType::MsgSnapshot as u32,
            to: follower,
            from: leader,
            term,
            checkpoint: Some(raftproto::peer::CheckpointInfo {
                index,
                term: of_term,
                membership: Some(cluster.group(leader).membership()),
            }),
            ..RaftMessage::default()
        };
        let now = Now {
            wall_ms: cluster.now_us / 1000,
            monotonic_us: cluster.now_us,
        };
        let mut effects = Vec::new();
        let group = cluster.group(follower);
        group.step(now, Input::Peer(offer), &mut effects);
        let answers = effects.iter().filter(|e| match e {
            Effect::Send(m) => {
                m.r#type == MessageType::MsgAppendResponse as u32 && m.index == commit && !m.reject
            }
            _ => false,
        });
        assert_eq!(answers.count() == 1, is_answered, "{index} {effects:?}");
    }
}

/// Seed 90: the members changed, one of the new ones lost its disk, and the others were started again: they did not know
/// the change for committed and waited for the votes of members that were gone.
#[test]
fn what_says_that_a_membership_change_is_committed_is_written_with_it() {
    let start = RaftStart {
        node_id: 1,
        membership: members(&[1]),
        ..RaftStart::default()
    };
    let mut group = Group::new(Machine::new(1), start, 0).unwrap();
    let now = Now {
        wall_ms: 1,
        monotonic_us: 1,
    };
    let mut effects = Vec::new();
    group.campaign(now, &mut effects).unwrap();
    let mut written = Vec::new();
    let mut has_ordered = false;
    for _ in 0..20 {
        let done: Vec<Persist> = effects
            .drain(..)
            .filter_map(|e| match e {
                Effect::Persist(persist) => Some(persist),
                _ => None,
            })
            .collect();
        for persist in done {
            group.step(now, Input::Persisted(persist.number), &mut effects);
            written.push(persist);
        }
        if group.is_ready() && !std::mem::replace(&mut has_ordered, true) {
            group.step(now, Input::Reconcile(vec![1, 2]), &mut effects);
        }
    }
    assert_eq!(group.membership().learners, [2]);
    let entries = written.iter().flat_map(|p| &p.entries);
    let change = entries.filter(|e| e.is_conf_change).map(|e| e.index);
    let change = change.last().unwrap();
    let known = written.iter().filter_map(|p| p.hard_state);
    assert_eq!(known.map(|h| h.commit).max(), Some(change));
}
