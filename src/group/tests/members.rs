//! Nodes come and go while the group works.

use std::collections::BTreeSet;

use super::replicas::{Cluster, others, tail_of};
use super::*;

/// Ticks within which a change is carried out.
const TICKS: usize = 400;

impl Cluster {
    /// A replica that is to join: it knows of no members.
    pub(super) fn add_replica(&mut self, node_id: u64) {
        assert_eq!(self.groups.len() as u64 + 1, node_id);
        let start = RaftStart {
            node_id,
            ..RaftStart::default()
        };
        self.groups
            .push(Group::new(Machine::new(1), start, 0).unwrap());
    }

    /// Ticks and reconciles until the members are these.
    pub(super) fn reach(&mut self, wanted: &[u64]) {
        for _ in 0..TICKS {
            let is_done = |g: &Group| {
                let m = g.membership();
                let mut voters = m.voters.clone();
                voters.sort_unstable();
                voters == wanted && m.voters_outgoing.is_empty() && m.learners.is_empty()
            };
            let leader = self.groups.iter().find(|g| g.is_ready() && is_done(g));
            if leader.is_some_and(|g| wanted.contains(&g.raft_id())) {
                return;
            }
            for node in 1..=self.groups.len() as u64 {
                self.step(node, Input::Reconcile(wanted.to_vec()));
            }
            self.tick();
        }
        panic!("the members are not {wanted:?}");
    }
}

#[test]
fn members_come_and_go_under_way() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "s", create(Expiry::Never));
    for _ in 0..300 {
        cluster.ask(leader, "s", append("x"));
    }
    cluster.add_replica(4);
    assert!(
        !cluster.group(4).is_alone(),
        "one without members is not its own master"
    );
    cluster.add_replica(5);
    cluster.reach(&[1, 2, 3, 4, 5]);
    cluster.reach(&[2, 3, 4]);
    let leader = cluster.elect(&[2, 3, 4]);
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 300);
    // The one that left and is down holds nobody up.
    cluster.cut.insert(1);
    cluster.cut.insert(5);
    cluster.reach(&[2, 3]);
    let leader = cluster.elect(&[2, 3]);
    assert!(matches!(
        cluster.ask(leader, "s", append("x")),
        Outcome::Appended { .. }
    ));
}

/// One that was proposed and replaced in the log, or dropped since another was under way, is nobody's to answer for: the next look at
/// the members proposes it again (R22).
#[test]
fn a_change_of_members_that_was_lost_is_proposed_again() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    cluster.ask(old, "s", create(Expiry::Never));
    let (one, two) = others(old);
    cluster.add_replica(4);
    cluster.cut.insert(old);
    let last = cluster.group(old).last_index();
    for _ in 0..3 {
        cluster.step(old, Input::Reconcile(vec![1, 2, 3, 4]));
        let proposed = cluster.group(old).last_index() - last;
        assert_eq!(proposed, 1, "one is under way, and stays so");
    }
    let new = cluster.elect(&[one, two]);
    cluster.ask(new, "s", append("x"));
    cluster.cut.clear();
    for _ in 0..40 {
        cluster.tick();
    }
    for node in [1, 2, 3] {
        let now = cluster.group(node).membership();
        assert_eq!((sorted(now.voters), now.learners), (vec![1, 2, 3], vec![]));
    }
    cluster.reach(&[1, 2, 3, 4]);
}

#[test]
fn a_node_that_never_comes_holds_up_no_other_order() {
    let mut cluster = Cluster::new();
    cluster.elect(&[1, 2, 3]);
    cluster.add_replica(4);
    cluster.add_replica(5);
    // Of node 4 nobody ever hears; node 5 comes, and node 3 goes.
    cluster.cut.insert(4);
    let wanted = [1, 2, 4, 5];
    for _ in 0..TICKS {
        for node in 1..=5 {
            cluster.step(node, Input::Reconcile(wanted.to_vec()));
        }
        cluster.tick();
    }
    let leader = cluster.elect(&[1, 2, 5]);
    let now = cluster.group(leader).membership();
    assert_eq!((sorted(now.voters), now.learners), (vec![1, 2, 5], vec![4]));
    // It comes after all.
    cluster.cut.clear();
    cluster.reach(&wanted);
}

/// Fewer would have what is committed, or fewer could fail.
#[test]
fn nobody_leaves_for_one_that_never_comes() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (gone, other) = others(leader);
    cluster.add_replica(4);
    cluster.cut.insert(4);
    for wanted in [vec![leader, other, 4], vec![leader, 4]] {
        for _ in 0..TICKS {
            cluster.step(leader, Input::Reconcile(wanted.clone()));
            cluster.tick();
        }
        let now = cluster.group(leader).membership();
        assert_eq!((sorted(now.voters), now.learners), (vec![1, 2, 3], vec![4]));
    }
    // Its order is taken back.
    cluster.reach(&sorted(vec![leader, other]));
    assert!(!cluster.group(leader).membership().voters.contains(&gone));
}

/// An order that would leave a group without a majority waits for those who are away.
#[test]
fn members_of_whom_most_are_away_are_waited_for() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (away, gone) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.cut.insert(away);
    for _ in 0..SETTLED {
        cluster.tick();
    }
    let wanted = sorted(vec![leader, away]);
    for _ in 0..TICKS {
        cluster.step(leader, Input::Reconcile(wanted.clone()));
        cluster.tick();
    }
    assert!(cluster.group(leader).membership().voters.contains(&gone));
    assert!(matches!(
        cluster.ask(leader, "s", append("x")),
        Outcome::Appended { .. }
    ));
    cluster.cut.clear();
    cluster.reach(&wanted);
}

/// Replaces the members in small steps, and tells `look` after each.
fn change(cluster: &mut Cluster, wanted: &[u64], mut look: impl FnMut(&mut Cluster) -> bool) {
    for _ in 0..TICKS {
        for node in 1..=cluster.groups.len() as u64 {
            cluster.step(node, Input::Reconcile(wanted.to_vec()));
        }
        cluster.tick();
        if look(cluster) {
            return;
        }
    }
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

/// Trap R13: a removal by a simple change, of which only the one that goes has heard, leaves the rest without a leader.
#[test]
fn a_removal_is_a_joint_change_and_the_last_two_become_one() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "s", create(Expiry::Never));
    for (wanted, before) in [(vec![1, 2], vec![1, 2, 3]), (vec![2], vec![1, 2])] {
        // Each message of the change is carried by hand, so that no state in between is missed.
        let mut joint = BTreeSet::new();
        for _ in 0..TICKS {
            for node in 1..=3 {
                cluster.step(node, Input::Reconcile(wanted.clone()));
                joint.insert(sorted(cluster.group(node).membership().voters_outgoing));
            }
            cluster.now_us += 50_000;
            for node in 1..=3 {
                cluster.step(node, Input::RaftTick);
            }
            while cluster.settle_one() {
                for node in 1..=3 {
                    joint.insert(sorted(cluster.group(node).membership().voters_outgoing));
                }
            }
        }
        assert!(joint.contains(&before), "{wanted:?}: {joint:?}");
        cluster.reach(&wanted);
    }
    for gone in [1, 3] {
        cluster.cut.insert(gone);
    }
    let leader = cluster.elect(&[2]);
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 0);
}

/// Traps R12 and R13: whenever the leader dies under way, those that are left and are a majority of both the old and the
/// new members find a leader, and bring the change to its end.
#[test]
fn a_leader_that_dies_at_any_moment_of_a_change_leaves_a_group_that_goes_on() {
    for death in 0..24 {
        let mut cluster = Cluster::new();
        let leader = cluster.elect(&[1, 2, 3]);
        cluster.ask(leader, "s", create(Expiry::Never));
        for _ in 0..10 {
            cluster.ask(leader, "s", append("x"));
        }
        cluster.add_replica(4);
        let mut ticks = 0;
        change(&mut cluster, &[1, 2, 3, 4], |_| {
            ticks += 1;
            ticks > death
        });
        let leader = (1..=4).find(|n| cluster.group(*n).is_ready());
        let leader = leader.expect("somebody leads");
        cluster.cut.insert(leader);
        let rest: Vec<u64> = (1..=4).filter(|n| *n != leader).collect();
        let next = cluster.elect(&rest);
        assert_eq!(tail_of(&cluster.ask(next, "s", Op::Head)), 10, "{death}");
        cluster.reach(&[1, 2, 3, 4]);
    }
}

/// Trap R14: who is removed and is down has no say in how the joint change ends.
#[test]
fn a_dead_member_is_removed_and_its_removal_can_be_taken_back() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (dead, other) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.cut.insert(dead);
    let wanted = sorted(vec![leader, other]);
    cluster.reach(&wanted);
    // Taken back while it is still down: it learns again, and is let in once it is there.
    change(&mut cluster, &[1, 2, 3], |c| {
        let members = c.group(leader).membership();
        members.learners.contains(&dead)
    });
    let outcome = cluster.ask(leader, "s", append("x"));
    assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
    cluster.cut.clear();
    cluster.reach(&[1, 2, 3]);
}

/// raft-rs issue 555: the refusal of a probe, delayed until the follower has caught up and is probed again.
#[test]
fn a_late_refusal_does_not_send_again_what_a_follower_has() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (follower, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    for _ in 0..10 {
        cluster.ask(leader, "s", append("x"));
    }
    let has = cluster.group(follower).last_index();
    cluster.step(leader, Input::LinkLost(follower));
    let refusal = raftproto::peer::RaftMessage {
        group: 1,
        r#type: ::raft::prelude::MessageType::MsgAppendResponse as u32,
        to: leader,
        from: follower,
        term: cluster.group(leader).term(),
        index: has,
        reject: true,
        reject_hint: has - 5,
        ..raftproto::peer::RaftMessage::default()
    };
    cluster.step(leader, Input::Peer(refusal));
    let sent = cluster.group(leader).raft.sent_next();
    assert!(
        sent.iter().all(|(matched, next)| next > matched),
        "{sent:?}"
    );
    cluster.settle();
    cluster.ask(leader, "s", append("x"));
}

/// Ticks until a group of four sleeps, or a replica has fetched what it lacks.
const SETTLED: usize = 150;

/// An idle group has a short log: who has nothing of it lacks few entries, and is no member that could vote.
#[test]
fn who_heard_nothing_yet_does_not_vote_in_a_group_with_a_short_log() {
    let mut cluster = Cluster::new();
    cluster.elect(&[1, 2, 3]);
    for _ in 0..SETTLED {
        cluster.tick();
    }
    assert!(cluster.groups.iter().all(Group::is_asleep));
    cluster.add_replica(4);
    cluster.cut.insert(4);
    let mut learned = false;
    for _ in 0..10 {
        change(&mut cluster, &[1, 2, 3, 4], |c| {
            let leader = c.groups.iter().find(|g| g.is_ready()).unwrap();
            let members = leader.membership();
            learned |= members.learners.contains(&4);
            assert!(!members.voters.contains(&4), "{members:?}");
            true
        });
    }
    assert!(learned);
    cluster.cut.clear();
    cluster.reach(&[1, 2, 3, 4]);
    for _ in 0..SETTLED {
        cluster.tick();
    }
    assert!(cluster.groups.iter().all(Group::is_asleep));
    let applied: BTreeSet<u64> = cluster.groups.iter().map(|g| g.applied().index).collect();
    assert_eq!(applied.len(), 1, "{applied:?}");
}

/// Whoever leads next sends a new member a checkpoint, also if it was not the one that took it in: a log that begins with
/// its first entry does not tell who the founders were, and a new member does not take it.
#[test]
fn a_new_member_is_taught_by_a_leader_that_did_not_take_it_in() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.add_replica(4);
    cluster.cut.insert(4);
    change(&mut cluster, &[1, 2, 3, 4], |c| {
        let all = [old, a, b];
        let knows = |n: &u64| c.groups[*n as usize - 1].membership().learners == [4];
        all.iter().all(knows)
    });
    cluster.cut.insert(old);
    let new = cluster.elect(&[a, b]);
    cluster.cut.clear();
    // Nobody asks for a change: all members are members already.
    for _ in 0..SETTLED {
        cluster.tick();
    }
    let applied = cluster.group(new).applied();
    assert_eq!(cluster.group(4).applied(), applied);
    assert!(cluster.groups.iter().all(Group::is_asleep));
}

/// The same after all have been started again from logs that reach back to the first entry.
#[test]
fn a_new_member_is_taught_after_a_restart_from_a_whole_log() {
    let change = ::raft::prelude::ConfChangeV2 {
        changes: vec![::raft::prelude::ConfChangeSingle {
            change_type: ::raft::prelude::ConfChangeType::AddNode as i32,
            node_id: 4,
        }],
        ..Default::default()
    };
    let entry = |index, is_conf_change, payload| LogEntry {
        index,
        term: 1,
        is_conf_change,
        payload,
    };
    let entries = vec![
        entry(1, false, Bytes::new()),
        entry(2, true, prost011::Message::encode_to_vec(&change).into()),
    ];
    let mut cluster = Cluster::new();
    for node_id in 1..=3 {
        let start = RaftStart {
            node_id,
            membership: members(&[1, 2, 3]),
            hard_state: SavedHardState {
                term: 1,
                vote: 0,
                commit: 2,
            },
            entries: entries.clone(),
            ..RaftStart::default()
        };
        *cluster.group(node_id) = Group::new(Machine::new(1), start, 0).unwrap();
    }
    cluster.add_replica(4);
    let leader = cluster.elect(&[1, 2, 3]);
    for _ in 0..SETTLED {
        cluster.tick();
    }
    let applied = cluster.group(leader).applied();
    assert_eq!(cluster.group(4).applied(), applied);
    assert!(cluster.groups.iter().all(Group::is_asleep));
}

#[test]
fn a_leader_that_is_to_go_hands_over_before_those_who_join_have_the_log() {
    let mut cluster = Cluster::new();
    let leaving = cluster.elect(&[1, 2, 3]);
    cluster.ask(leaving, "s", create(Expiry::Never));
    cluster.add_replica(4);
    // It takes nothing of a node that is no member any more.
    cluster.cut.insert(4);
    let (one, other) = others(leaving);
    let wanted = vec![one, other, 4];
    for _ in 0..TICKS {
        for node in 1..=4 {
            cluster.step(node, Input::Reconcile(wanted.clone()));
        }
        cluster.tick();
        if wanted.iter().any(|id| cluster.group(*id).is_ready()) {
            cluster.cut.clear();
            return cluster.reach(&sorted(wanted));
        }
    }
    panic!("{leaving} leads on");
}
