//! Leadership that an operator hands over: from whom, to whom, and whether it has gone.

use std::collections::BTreeMap;
use std::time::Duration;

use raftproto::peer::{AdminRequest, TransferLeaders, admin_request::Order};

use super::{CliError, NodeStatus, Operator, failed, is_voter, leaders, name, number_at, wanted};
use crate::cli::cluster_arguments::TransferLeader;
use crate::cli::output::say;

/// Between two looks at who leads: a hand-over takes milliseconds.
const LOOK: Duration = Duration::from_millis(50);

/// After so many of them a hand-over that came to nothing is ordered again.
const LOOKS_PER_ORDER: u32 = 40;

impl Operator {
    /// Orders it and waits until other nodes lead.
    pub(super) async fn transfer(&self, given: &TransferLeader) -> Result<(), CliError> {
        let all = self.all(false).await?;
        let leads = match (&given.from, given.group) {
            (None, Some(group)) => match leader_of(&all, group, given.to) {
                Ok(None) => {
                    say!("group {group} is led by that node already");
                    return Ok(());
                }
                Ok(leads) => leads,
                Err(text) => return Err(CliError::Conflict(text)),
            },
            _ => None,
        };
        if let Some(to) = given.to {
            may_lead(&all, to).map_err(CliError::Conflict)?;
        }
        let at = given
            .from
            .clone()
            .or(leads)
            .unwrap_or_else(|| self.at.clone());
        let mut meant = led_at(&all, &at, given.group);
        if meant.is_empty() {
            let what = given
                .group
                .map_or("any group".to_owned(), |g| format!("group {g}"));
            return Err(CliError::Conflict(format!(
                "the node at {at} does not lead {what}: nothing was ordered"
            )));
        }
        let count = meant.len();
        self.hand_over(&at, given.group, given.to).await?;
        for round in 1u32.. {
            // A node that does not answer is no reason to give up: others know who leads.
            if let Ok(all) = self.all(false).await {
                let now = leaders(&all);
                // Led in a later term, be that by the same node, to which balance gave it back, it was handed over.
                meant.retain(|group, term| {
                    let now = now.get(group);
                    now.is_none_or(|g| g.leader == 0 || g.term <= *term)
                });
            }
            if meant.is_empty() {
                say!("{count} groups are led by other nodes now");
                break;
            }
            glommio::timer::sleep(LOOK).await;
            if round.is_multiple_of(LOOKS_PER_ORDER) {
                for group in meant.keys() {
                    self.hand_over(&at, Some(*group), given.to).await?;
                }
            }
        }
        Ok(())
    }

    /// Orders that a node hands over a group, or all that it leads; who leads nothing of that does nothing.
    async fn hand_over(
        &self,
        at: &str,
        group: Option<u32>,
        to: Option<u64>,
    ) -> Result<(), CliError> {
        let request = AdminRequest {
            from: None,
            is_forced: false,
            order: Some(Order::TransferLeaders(TransferLeaders {
                group: group.unwrap_or(u32::MAX),
                to_node: to.unwrap_or(0),
            })),
        };
        let reply = self.caller.administer(at, request).await;
        reply.map(drop).map_err(|e| failed(at, &e))
    }
}

/// The groups, or the one that is named, which the node at the address leads, with the terms in which it does.
fn led_at(all: &[NodeStatus], at: &str, group: Option<u32>) -> BTreeMap<u32, u64> {
    let asked = all.iter().find(|(address, _)| address == at);
    let told = asked.and_then(|(_, told)| told.as_ref().ok()?.node.as_ref());
    let Some(node) = told.map(|n| n.node_id).or_else(|| number_at(all, at)) else {
        return BTreeMap::new();
    };
    let led = leaders(all)
        .into_values()
        .filter(|g| g.leader & 0xffff == node);
    let led = led.filter(|g| group.is_none_or(|group| group == g.group));
    led.map(|g| (g.group, g.term)).collect()
}

/// Whether a node can be asked to lead; else why not.
fn may_lead(all: &[NodeStatus], to: u64) -> Result<(), String> {
    if !is_voter(all, to) {
        return Err(format!("node {to} is not a member"));
    }
    let mut answered = all
        .iter()
        .filter_map(|(_, told)| told.as_ref().ok()?.node.as_ref());
    if !answered.any(|n| n.node_id == to) {
        return Err(format!("node {to} does not answer: nothing was ordered"));
    }
    if wanted(all)
        .iter()
        .any(|m| m.raft_id & 0xffff == to && m.drained)
    {
        return Err(format!(
            "node {to} is drained, so that it does not lead: end that with `ursula cluster drain {to} --undo`"
        ));
    }
    Ok(())
}

/// The cluster address of the node that leads a group; none if that is the one it shall go to.
pub(super) fn leader_of(
    all: &[NodeStatus],
    group: u32,
    to: Option<u64>,
) -> Result<Option<String>, String> {
    let leaders = leaders(all);
    let Some(status) = leaders.get(&group) else {
        let last = leaders.keys().last().copied().unwrap_or(0);
        return Err(format!("there is no group {group}: they are 0 to {last}"));
    };
    if status.leader == 0 {
        return Err(format!("group {group} has no leader at this moment"));
    }
    if to == Some(status.leader & 0xffff) {
        return Ok(None);
    }
    let is_leader = |(_, told): &&NodeStatus| {
        let node = told.as_ref().ok().and_then(|s| s.node.as_ref());
        node.is_some_and(|n| n.raft_id == status.leader)
    };
    let Some((address, _)) = all.iter().find(is_leader) else {
        let leader = name(status.leader);
        return Err(format!(
            "group {group} is led by node {leader}, which does not answer"
        ));
    };
    Ok(Some(address.clone()))
}
