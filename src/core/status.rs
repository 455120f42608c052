//! How this core's groups are, for the operator and for the other nodes.

use raftproto::peer::{GroupStatus, ReplicaStatus};

use super::Core;
use crate::group::Group;

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
}
