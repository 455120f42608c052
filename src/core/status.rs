//! How this core's groups are, for the operator and for the other nodes.

use std::collections::BTreeMap;

use raftproto::peer::{GroupStatus, ReplicaStatus};

use super::Core;
use crate::group::Group;
use crate::peer::Link;

impl Core {
    /// One group's state. Its hash takes time in proportion to the streams: only where someone asks for it.
    pub(super) fn group_status(&self, group: &Group, with_hash: bool) -> GroupStatus {
        GroupStatus {
            group: group.id(),
            leader: group.leader(),
            term: group.term(),
            applied: group.applied().index,
            commit: group.commit(),
            last_index: group.last_index(),
            membership: Some(group.membership()),
            state_hash: if with_hash { group.state_hash() } else { 0 },
            hot_bytes: group.hot_bytes(),
            streams: group.stream_count() as u64,
            replicas: group
                .replicas()
                .into_iter()
                .map(|r| ReplicaStatus {
                    raft_id: r.raft_id,
                    matched: r.matched,
                    is_active: r.is_active,
                    is_installing: r.is_installing,
                })
                .collect(),
            trouble: group.trouble().map(|t| t.to_string()).unwrap_or_default(),
        }
    }

    /// Sets the series about other nodes.
    pub(super) fn report_cluster(&self, groups: &BTreeMap<u32, Group>) {
        let plain = &self.metrics.plain;
        let count = |is_meant: &dyn Fn(&Group) -> bool| {
            groups.values().filter(|group| is_meant(group)).count() as u64
        };
        plain.groups_led.set(count(&|g| g.is_ready()));
        plain.groups_asleep.set(count(&|g| g.is_asleep()));
        plain
            .groups_in_trouble
            .set(count(&|g| g.trouble().is_some()));
        let lag = |group: &Group| {
            let replicas = group.replicas();
            let slowest = replicas.iter().map(|r| r.matched).min();
            slowest.map_or(0, |matched| group.last_index().saturating_sub(matched))
        };
        plain
            .replication_lag_entries
            .set(groups.values().map(lag).sum());
        let links = self.links.borrow();
        let connected = links.values().filter(|l| l.is_up()).count();
        plain.peers_connected.set(connected as u64);
        let sum = |of: &dyn Fn(&Link) -> u64| links.values().map(|l| of(l)).sum::<u64>();
        plain.peer_queue_bytes.set(sum(&|l| l.queued_bytes()));
        plain
            .peer_sent_bytes_total
            .set(sum(&|l| l.stats().bytes_sent.get()));
        plain
            .peer_batches_total
            .set(sum(&|l| l.stats().batches_sent.get()));
    }
}
