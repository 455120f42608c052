//! What followers answer, and what they need not.

use ::raft::prelude::MessageType;

use super::replicas::{Cluster, Sent, others};
use super::*;

/// The next message is a follower's word that it has the log.
fn is_answer(cluster: &Cluster) -> Option<u64> {
    match cluster.network.front() {
        Some((from, _, Sent::Raft(m))) => {
            (m.r#type == MessageType::MsgAppendResponse as u32).then_some(*from)
        }
        _ => None,
    }
}

/// Appends through the leader and carries all messages; those that `is_lost` says are lost. How many answers there were.
fn append_and_count(cluster: &mut Cluster, leader: u64, is_lost: impl Fn(u64) -> bool) -> usize {
    let request = Request::on_key(key("s"), append("x"));
    let reply_to = ReplyTo(1000 + cluster.now_us);
    cluster.step(leader, Input::Request { request, reply_to });
    let mut count = 0;
    loop {
        // Syncs come before messages.
        if cluster.unsynced.is_empty()
            && let Some(from) = is_answer(cluster)
        {
            count += 1;
            if is_lost(from) {
                cluster.network.pop_front();
                continue;
            }
        }
        if !cluster.settle_one() {
            return count;
        }
    }
}

#[test]
fn that_something_is_committed_is_told_and_not_answered() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "s", create(Expiry::Never));
    for _ in 0..3 {
        assert_eq!(append_and_count(&mut cluster, leader, |_| false), 2);
        cluster.now_us += 1;
    }
    let applied = [1, 2, 3].map(|node| cluster.group(node).applied());
    assert!(applied[0] == applied[1] && applied[1] == applied[2]);
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    append_and_count(&mut cluster, leader, |from| from == a);
    let matched = |cluster: &mut Cluster| {
        let replicas = cluster.group(leader).replicas();
        let found = replicas.into_iter().find(|r| r.raft_id == a);
        found.map(|r| r.matched)
    };
    let last = cluster.group(leader).last_index();
    assert!(matched(&mut cluster) < Some(last));
    for _ in 0..6 {
        cluster.tick();
    }
    assert_eq!(matched(&mut cluster), Some(last));
}
