//! What `ursula cluster status --json` prints, and the console reads.

use raftproto::peer::{CoreStatus, GroupStatus};

use super::{NodeStatus, leaders, level, number_at, progress, wanted};

/// What `--json` prints.
pub fn cluster_as_json(all: &[NodeStatus]) -> serde_json::Value {
    let progress = progress(all);
    let nodes = all.iter().map(|(address, status)| match status {
        Ok(status) => {
            let hello = status.node.clone().unwrap_or_default();
            serde_json::json!({
                "node": hello.node_id,
                "raft_id": hello.raft_id,
                "commands_version": hello.commands_version,
                "clients": hello.client_address,
                "cluster": hello.cluster_address,
                "cold": hello.cold_place,
                "groups_led": status.groups_led,
                "groups_without_leader": status.groups_without_leader,
                "groups": status.groups.iter().map(replica_json).collect::<Vec<_>>(),
                "cores": status.cores.iter().map(core_json).collect::<Vec<_>>(),
            })
        }
        Err(error) => serde_json::json!({
            "node": number_at(all, address),
            "cluster": address,
            "error": error.to_string(),
        }),
    });
    let groups = leaders(all).into_values().map(|g| {
        let membership = g.membership.clone().unwrap_or_default();
        serde_json::json!({
            "group": g.group,
            "leader": g.leader & 0xffff,
            "term": g.term,
            "applied": g.applied,
            "replicas": replicas_json(&g),
            "voters": membership.voters,
            "learners": membership.learners,
            "streams": g.streams,
            "trouble": g.trouble,
        })
    });
    let members = wanted(all).into_iter().map(|m| {
        serde_json::json!({
            "node": m.raft_id & 0xffff,
            "raft_id": m.raft_id,
            "cluster": m.cluster_address,
            "drained": m.drained,
        })
    });
    serde_json::json!({
        "level": level(all),
        "members": members.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "groups_done": progress.done,
        "groups_waiting": progress.waiting,
    })
}

fn replica_json(group: &GroupStatus) -> serde_json::Value {
    let hash = (group.state_hash != 0).then(|| format!("{:016x}", group.state_hash));
    serde_json::json!({ "group": group.group, "applied": group.applied, "state_hash": hash, "trouble": group.trouble })
}

fn core_json(core: &CoreStatus) -> serde_json::Value {
    serde_json::json!({
        "core": core.core,
        "is_up": core.is_up,
        "has_failed": core.has_failed,
        "is_disk_full": core.is_disk_full,
        "groups_led": core.groups_led,
        "streams": core.streams,
        "hot_bytes": core.hot_bytes,
        "live_readers": core.live_readers,
        "requests": core.requests,
        "reactor_stalls": core.reactor_stalls,
    })
}

/// The replicas as their leader sees them; none where nobody leads.
fn replicas_json(group: &GroupStatus) -> Vec<serde_json::Value> {
    let replicas = group.replicas.iter().map(|r| {
        serde_json::json!({
            "node": r.raft_id & 0xffff,
            "raft_id": r.raft_id,
            "behind": group.last_index.saturating_sub(r.matched),
            "is_active": r.is_active,
            "is_installing": r.is_installing,
        })
    });
    replicas.collect()
}
