//! How far the groups are from the leaders and members that they shall have, and how long the rest takes.

use std::collections::BTreeSet;
use std::time::Duration;

use raftproto::peer::GroupStatus;

use super::{NodeStatus, leaders, name, wanted};

/// How far the groups are from the members that they shall have.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) groups: usize,
    pub(super) done: usize,
    /// Entries that the other replicas of those lack which are not done.
    pub(super) behind: u64,
    pub(super) waiting: Vec<String>,
    /// Replicas that take no part: the group, the node and why.
    pub(super) troubled: Vec<(u32, String, String)>,
    /// Nodes that are to learn and of which no leader ever heard: number and address.
    pub(super) unheard: BTreeSet<(String, String)>,
}

/// How long the rest takes if it goes on as since the first look; none where nothing has moved yet.
pub(super) fn left(first: &Progress, now: &Progress, took: Duration) -> Option<Duration> {
    let part = |done: u64, rest: u64| (done > 0 && rest > 0).then(|| rest as f64 / done as f64);
    let groups = part(
        now.done.saturating_sub(first.done) as u64,
        (now.groups - now.done) as u64,
    );
    let entries = part(first.behind.saturating_sub(now.behind), now.behind);
    let most = groups.into_iter().chain(entries).reduce(f64::max)?;
    Some(took.mul_f64(most.min(1e6)))
}

pub(super) fn progress(all: &[NodeStatus]) -> Progress {
    let groups = leaders(all);
    let members = wanted(all);
    let drained: Vec<u64> = members
        .iter()
        .filter(|m| m.drained)
        .map(|m| m.raft_id)
        .collect();
    let mut unheard = BTreeSet::new();
    for group in groups.values() {
        let learners = group.membership.iter().flat_map(|m| &m.learners);
        for learner in learners {
            let mut replicas = group.replicas.iter().filter(|r| r.raft_id == *learner);
            let member = members.iter().find(|m| m.raft_id == *learner);
            if let Some(member) = member
                && replicas.any(|r| !r.is_active && r.matched == 0)
            {
                unheard.insert((name(*learner), member.cluster_address.clone()));
            }
        }
    }
    let mut wanted: Vec<u64> = members.into_iter().map(|m| m.raft_id).collect();
    wanted.sort_unstable();
    let is_done = |group: &GroupStatus| {
        let membership = group.membership.clone().unwrap_or_default();
        let mut voters = membership.voters;
        voters.sort_unstable();
        let is_quiet = membership.voters_outgoing.is_empty() && membership.learners.is_empty();
        let is_led = group.leader != 0 && !drained.contains(&group.leader);
        is_led && is_quiet && (wanted.is_empty() || voters == wanted)
    };
    let behind = groups.values().filter(|g| !is_done(g)).flat_map(|g| {
        let replicas = g.replicas.iter();
        replicas.map(|r| g.last_index.saturating_sub(r.matched))
    });
    let behind = behind.sum();
    let waiting = groups.iter().filter(|(_, g)| !is_done(g));
    let waiting: Vec<String> = waiting.map(|(id, _)| id.to_string()).collect();
    Progress {
        groups: groups.len(),
        done: groups.len() - waiting.len(),
        behind,
        waiting,
        troubled: troubled(all),
        unheard,
    }
}

fn troubled(all: &[NodeStatus]) -> Vec<(u32, String, String)> {
    let mut found = Vec::new();
    for status in all.iter().filter_map(|(_, s)| s.as_ref().ok()) {
        let node = name(status.node.as_ref().map_or(0, |n| n.raft_id));
        let groups = status.groups.iter().filter(|g| !g.trouble.is_empty());
        found.extend(groups.map(|g| (g.group, node.clone(), g.trouble.clone())));
    }
    found
}

pub(super) fn told(progress: &Progress) -> String {
    let Progress {
        groups,
        done,
        waiting,
        ..
    } = progress;
    let shown = |names: &mut dyn Iterator<Item = String>| {
        let first: Vec<String> = names.take(16).collect();
        first.join(", ")
    };
    let mut text = if waiting.is_empty() {
        format!("all {groups} groups have a leader and the members that they shall have")
    } else {
        let waiting = shown(&mut waiting.iter().cloned());
        format!(
            "{done} of {groups} groups have the leader and members that they shall have; not yet: {waiting}"
        )
    };
    for (node, address) in &progress.unheard {
        text.push_str(&format!("; node {node} at {address} was never heard of"));
    }
    if !progress.troubled.is_empty() {
        let mut replicas = progress.troubled.iter();
        let replicas = shown(
            &mut replicas
                .by_ref()
                .map(|(g, n, _)| format!("{g} on node {n}")),
        );
        text.push_str(&format!("; replicas that take no part: {replicas}"));
    }
    text
}
