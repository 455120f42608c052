//! When a leader answers what must be linearizable.

use super::replicas::{Cluster, TICKS, others, tail_of};
use super::*;

/// A leader that has not committed in its term, and the other one of those that elected it.
fn new_leader_before_its_first_commit(cluster: &mut Cluster) -> (u64, u64) {
    let old = cluster.elect(&[1, 2, 3]);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.ask(old, "s", append("x"));
    cluster.cut.insert(old);
    let (a, b) = others(old);
    for _ in 0..TICKS {
        cluster.now_us += 50_000;
        for node in [1, 2, 3] {
            cluster.step(node, Input::RaftTick);
        }
        loop {
            for (node, other) in [(a, b), (b, a)] {
                let group = cluster.group(node);
                if group.raft.is_leader() && !group.is_ready() {
                    return (node, other);
                }
            }
            if !cluster.settle_one() {
                break;
            }
        }
    }
    panic!("nobody leads");
}

/// raft-rs drops a ReadIndex before the first commit of a term without a word (FAULTS.md, R1).
#[test]
fn a_read_before_the_first_commit_of_a_term_waits_for_it_or_is_refused() {
    for is_committed in [true, false] {
        let mut cluster = Cluster::new();
        let (leader, other) = new_leader_before_its_first_commit(&mut cluster);
        if !is_committed {
            cluster.cut.insert(other);
        }
        let reply_to = ReplyTo(1000);
        let request = Request::on_key(key("s"), Op::Head);
        cluster.step(leader, Input::Request { request, reply_to });
        assert!(cluster.answers.is_empty());
        cluster.settle();
        let asked = (leader, reply_to.0);
        if is_committed {
            // With the next tick: a round that raft-rs drops would be missed after two heartbeats.
            cluster.tick();
            assert_eq!(tail_of(&cluster.answers[&asked]), 1);
            continue;
        }
        assert!(!cluster.answers.contains_key(&asked));
        for _ in 0..5 * TICKS {
            cluster.tick();
        }
        assert!(
            matches!(
                cluster.answers.get(&asked),
                Some(Outcome::Refused(Refusal::Unavailable))
            ),
            "{:?}",
            cluster.answers.get(&asked)
        );
    }
}
