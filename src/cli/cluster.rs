//! `ursula cluster`: an operator's view of the nodes, and orders to them, over the cluster's own port.

mod address;
mod json;
mod places;
mod progress;
mod transfer;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use futures_lite::future::poll_once;
use raftproto::checkpoint::Member as StoredMember;
use raftproto::command::{ChangeMembers, Member, change_members::Change};
use raftproto::peer::{
    AdminRequest, GroupStatus, StatusReply, StatusRequest, admin_request::Order,
};

use self::address::is_address;
pub use self::json::cluster_as_json;
use self::progress::{left, progress, told};
use super::CliError;
use super::arguments::{ClusterCommand, ClusterSubcommand};
use super::output::say;
use crate::core::timeouts::Timeouts;
use crate::ops::logging::journal::note;
use crate::peer::{Caller, Code, GrpcError};

/// Between two looks at how far a change is.
const LOOK: Duration = Duration::from_millis(250);

/// Between the two looks that tell how fast it goes.
const SPEED_LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(command: ClusterCommand) -> Result<(), CliError> {
    if !is_address(&command.at) {
        return Err(CliError::Usage(format!(
            "--at {:?} is not HOST:PORT",
            command.at
        )));
    }
    let timeouts: Rc<Timeouts> = Rc::default();
    crate::core::tasks::spawn(timeouts.clone().run()).detach();
    let operator = Operator {
        caller: Caller::new(Rc::default(), timeouts),
        at: command.at,
    };
    let patience = Duration::from_secs(command.wait_s).max(LOOK);
    let mut is_forced = false;
    let order = match command.command {
        ClusterSubcommand::Status(status) => {
            return operator.show(status.json, status.hashes).await;
        }
        ClusterSubcommand::TransferLeader(order) => {
            order.to.map_or(Ok(0), number)?;
            let late = async {
                glommio::timer::sleep(patience).await;
                Err(CliError::Conflict(format!(
                    "not handed over within the {} s of --wait-s: see `ursula cluster status`",
                    command.wait_s
                )))
            };
            return operator.transfer(&order).or(late).await;
        }
        ClusterSubcommand::Add(order) => {
            let wrong = || CliError::Usage(format!("{:?} is not N=HOST:PORT", order.node));
            let (node, address) = order.node.split_once('=').ok_or_else(wrong)?;
            if !is_address(address) {
                return Err(wrong());
            }
            let added = Member {
                raft_id: number(node.parse().map_err(|_| wrong())?)?,
                cluster_address: address.to_owned(),
                drained: false,
            };
            if !order.unseen {
                operator.check_address(&added).await?;
            }
            Change::Add(added)
        }
        ClusterSubcommand::Remove(order) => Change::Remove(number(order.node)?),
        ClusterSubcommand::Replace(order) => {
            is_forced = order.force;
            Change::Replace(number(order.node)?)
        }
        ClusterSubcommand::Drain(order) if order.undo => Change::Undrain(number(order.node)?),
        ClusterSubcommand::Drain(order) => Change::Drain(number(order.node)?),
    };
    let mut over = pin!(glommio::timer::Timer::new(patience));
    let said = operator.order(order, is_forced, &mut over).await?;
    say!("{said}");
    let late = async {
        over.await;
        Err(CliError::Late(command.wait_s))
    };
    // Also where a node that is asked does not answer.
    operator.follow().or(late).await
}

/// A node's number: a raft id has more above it.
fn number(node: u64) -> Result<u64, CliError> {
    match node {
        1..=0xffff => Ok(node),
        _ => Err(CliError::Usage(format!(
            "{node} is no number of a node: they are 1 to 65535"
        ))),
    }
}

struct Operator {
    caller: Caller,
    at: String,
}

impl Operator {
    /// Gives an order until it is taken, or `over`: for a moment the cluster may have nobody who takes one, and the node that
    /// is asked be busy. Where nothing listens, that is told at once.
    async fn order(
        &self,
        change: Change,
        is_forced: bool,
        mut over: impl Future<Output = Instant> + Unpin,
    ) -> Result<String, CliError> {
        let is_repeatable = says_what_shall_be(&change);
        let request = AdminRequest {
            from: None,
            is_forced,
            order: Some(Order::ChangeMembers(ChangeMembers {
                base: Vec::new(),
                change: Some(change),
            })),
        };
        let failed = |error: GrpcError| failed(&self.at, &error);
        let mut is_again = false;
        loop {
            let late = async {
                (&mut over).await;
                let text = "no connection in time".to_owned();
                Err(GrpcError::new(Code::DeadlineExceeded, text))
            };
            let mut asking = self.caller.open(&self.at).or(late).await.map_err(failed)?;
            let error = match asking.administer(&request).await {
                Ok(reply) => return Ok(reply.text),
                Err(error) => error,
            };
            let may_pass = matches!(error.code, Code::Unavailable | Code::DeadlineExceeded);
            let error = match failed(error) {
                CliError::Conflict(text) if is_again => CliError::Conflict(format!(
                    "{text}. An attempt before may have been taken: see `ursula cluster status`"
                )),
                error => error,
            };
            if !may_pass || !is_repeatable || poll_once(&mut over).await.is_some() {
                return Err(error);
            }
            if !std::mem::replace(&mut is_again, true) {
                note(format_args!("{error}; trying again"));
            }
            glommio::timer::sleep(LOOK).await;
        }
    }

    async fn all(&self, with_hashes: bool) -> Result<Vec<NodeStatus>, CliError> {
        cluster_status(&self.caller, &self.at, with_hashes).await
    }

    async fn show(&self, json: bool, with_hashes: bool) -> Result<(), CliError> {
        let all = self.all(with_hashes).await?;
        let progress = progress(&all);
        if json {
            say!("{}", cluster_as_json(&all));
            return Ok(());
        }
        say!("node  clients                cluster                leads  without leader");
        for (address, status) in &all {
            match status {
                Ok(status) => {
                    let hello = status.node.clone().unwrap_or_default();
                    say!(
                        "{:<5} {:<22} {:<22} {:<6} {}",
                        hello.node_id,
                        hello.client_address,
                        hello.cluster_address,
                        status.groups_led,
                        status.groups_without_leader
                    );
                }
                Err(error) => {
                    let number = number_at(&all, address).map_or("?".to_owned(), |n| n.to_string());
                    say!("{number:<5} {:<22} {address:<22} {error}", "");
                }
            }
        }
        let leaders = leaders(&all);
        say!("\ngroup leader   term   applied    voters (how far each is behind)");
        for (group, status) in &leaders {
            let replicas: Vec<String> = status
                .replicas
                .iter()
                .map(|r| {
                    let behind = status.last_index.saturating_sub(r.matched);
                    let state = match (r.is_installing, r.is_active) {
                        (true, _) => ", gets a checkpoint",
                        (_, false) => ", silent",
                        _ => "",
                    };
                    format!("{} (-{behind}{state})", name(r.raft_id))
                })
                .collect();
            say!(
                "{group:<5} {:<8} {:<6} {:<10} {}",
                name(status.leader),
                status.term,
                status.applied,
                replicas.join(" ")
            );
        }
        for (group, node, trouble) in &progress.troubled {
            say!("group {group} on node {node}: {trouble}");
        }
        let can = |(_, status): &NodeStatus| {
            let hello = status.as_ref().ok()?.node.as_ref()?;
            Some(format!("node {} {}", hello.node_id, hello.commands_version))
        };
        let can: Vec<String> = all.iter().filter_map(can).collect();
        say!(
            "\ncommands are written in version {}; applied up to: {}",
            level(&all),
            can.join(", ")
        );
        if let Some(text) = places::differ(&all) {
            say!("\n{text}");
        }
        let mut line = told(&progress);
        if progress.done < progress.groups {
            // How fast it goes takes two looks.
            glommio::timer::sleep(SPEED_LOOK).await;
            let now = self::progress::progress(&self.all(false).await?);
            line = told(&now);
            match left(&progress, &now, SPEED_LOOK) {
                Some(left) => line.push_str(&format!("; about {} s more", left.as_secs().max(1))),
                None if now.done < now.groups => {
                    line.push_str("; nothing has moved within the last second")
                }
                None => {}
            }
        }
        say!("\n{line}");
        Ok(())
    }

    /// Shows how the groups follow an order, until all have. The order stands either way, and so whether the node that is asked
    /// answers each time or not.
    async fn follow(&self) -> Result<(), CliError> {
        let mut last = String::new();
        let mut first = None;
        for round in 0u32.. {
            let progress = self.all(false).await.map(|all| progress(&all));
            let line = match &progress {
                Ok(progress) => {
                    let began = first.get_or_insert_with(|| progress.clone());
                    let took = LOOK.saturating_mul(round);
                    let more = left(began, progress, took)
                        .map(|left| format!("; about {} s more", left.as_secs().max(1)));
                    told(progress) + &more.unwrap_or_default()
                }
                Err(error) => error.to_string(),
            };
            if line != last {
                note(format_args!("{line}"));
                last = line;
            }
            if progress.is_ok_and(|p| p.groups > 0 && p.done == p.groups) {
                break;
            }
            glommio::timer::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// A node's cluster address and what it says.
pub type NodeStatus = (String, Result<StatusReply, GrpcError>);

/// The status of the node that is asked, and of all that it knows of.
///
/// # Errors
/// [`CliError`] if the first one does not answer.
pub async fn cluster_status(
    caller: &Caller,
    at: &str,
    with_hashes: bool,
) -> Result<Vec<NodeStatus>, CliError> {
    let request = StatusRequest {
        with_groups: true,
        with_hashes,
        ..StatusRequest::default()
    };
    let first = caller.status(at, request.clone()).await;
    let first = first.map_err(|e| failed(at, &e))?;
    let mut others: Vec<String> = Vec::new();
    for address in first.peers.iter().map(|p| p.cluster_address.clone()) {
        if !others.contains(&address) {
            others.push(address);
        }
    }
    let mut all = vec![(at.to_owned(), Ok(first))];
    for address in others {
        let status = caller.status(&address, request.clone()).await;
        all.push((address, status));
    }
    Ok(all)
}

/// Given twice it does what it does once; a replacement gives up each time what the node has by then.
fn says_what_shall_be(change: &Change) -> bool {
    !matches!(change, Change::Replace(_))
}

fn failed(at: &str, error: &GrpcError) -> CliError {
    match error.code {
        Code::Unavailable | Code::DeadlineExceeded => {
            CliError::Unavailable(format!("{at} ({})", error.message))
        }
        Code::FailedPrecondition => CliError::Conflict(error.message.clone()),
        _ => CliError::Malformed(error.to_string()),
    }
}

/// Which node is at a cluster address, as those say that answer.
fn number_at(all: &[NodeStatus], address: &str) -> Option<u64> {
    let told = all.iter().filter_map(|(_, s)| s.as_ref().ok());
    let mut peers = told.flat_map(|s| &s.peers);
    let found = peers.find(|p| p.cluster_address == address);
    found.map(|p| p.node_id)
}

fn name(raft_id: u64) -> String {
    match (raft_id & 0xffff, raft_id >> 16) {
        (0, _) => "nobody".to_owned(),
        (node, 0) => node.to_string(),
        (node, replaced) => format!("{node}'{replaced}"),
    }
}

/// The version of commands that the cluster writes, by the node that knows most.
fn level(all: &[NodeStatus]) -> u32 {
    let replies = all.iter().filter_map(|(_, s)| s.as_ref().ok());
    let noted = replies.map(|s| s.level).max().unwrap_or(0);
    noted.max(raftproto::version::LEVEL_FIRST)
}

/// Each group as its leader sees it, or else as anyone does.
fn leaders(all: &[NodeStatus]) -> BTreeMap<u32, GroupStatus> {
    let mut found: BTreeMap<u32, GroupStatus> = BTreeMap::new();
    for status in all.iter().filter_map(|(_, s)| s.as_ref().ok()) {
        for group in &status.groups {
            let is_better = found.get(&group.group).is_none_or(|known| {
                (!group.replicas.is_empty(), group.term) > (!known.replicas.is_empty(), known.term)
            });
            if is_better {
                found.insert(group.group, group.clone());
            }
        }
    }
    found
}

/// The members that all groups shall have, as the meta group's leader knows them: by the newest order. Empty: as the
/// cluster was founded.
fn wanted(all: &[NodeStatus]) -> Vec<StoredMember> {
    let meta_leader = leaders(all).get(&0).map_or(0, |g| g.leader);
    let replies = || all.iter().filter_map(|(_, s)| s.as_ref().ok());
    let by_leader = replies().find(|s| s.node.as_ref().is_some_and(|n| n.raft_id == meta_leader));
    let members = by_leader.map(|s| &s.members);
    let members = members.or_else(|| replies().map(|s| &s.members).max_by_key(|m| m.len()));
    members.cloned().unwrap_or_default()
}

fn is_voter(all: &[NodeStatus], node: u64) -> bool {
    let groups = leaders(all);
    let memberships = groups.values().filter_map(|g| g.membership.as_ref());
    let mut voters = memberships.flat_map(|m| &m.voters);
    voters.any(|id| id & 0xffff == node)
}

#[cfg(test)]
mod tests;
