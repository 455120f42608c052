//! Nodes come and go while the group works.

use super::replicas::{Cluster, tail_of};
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
