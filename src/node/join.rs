//! A new data directory of a cluster that is not new: its replicas get their raft id from the cluster. So do those that take
//! the place of damaged ones.

use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use raftproto::command::{ChangeMembers, change_members::Change};
use raftproto::peer::{AdminRequest, Hello, StatusReply, StatusRequest, admin_request::Order};
use storage::framed;

use super::identity::Identity;
use super::{NodeError, notify};
use crate::config::{Config, Peer};
use crate::core::{bound_path, executor};
use crate::meta::admission::Bound;
use crate::meta::joining::{judge, judge_claim, lacks_order};
use crate::peer::Caller;

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Rounds between two orders: each one makes the replicas of the one before it void.
const ROUNDS_PER_ORDER: u32 = 40;

/// Rounds between two lines of the log.
const ROUNDS_PER_LINE: u32 = 20;

/// What the others say of a node that joins.
struct Named {
    /// Of its replicas.
    raft_id: u64,
    /// Replicas that have a data directory, as far as anybody knows.
    bound: Vec<u64>,
}

/// Asks the other nodes until an order has made this one a member; answers the raft id of its replicas. Notes in `dir` which
/// replicas they have met: this node may have been one of those who knew, before it lost its disk.
///
/// # Errors
/// The machine's.
pub fn await_membership(dir: &Path, config: &Config) -> Result<u64, NodeError> {
    run(dir, config, None)
}

/// Has the replicas of this node, whose raft id was `damaged`, replaced by a majority; answers the raft id of the new ones.
///
/// # Errors
/// The machine's.
pub fn await_replacement(dir: &Path, config: &Config, damaged: u64) -> Result<u64, NodeError> {
    run(dir, config, Some(damaged))
}

/// Has the others note a new data directory, before its replicas say or write anything; answers whether its raft id is still
/// the one that the cluster wants of this node.
///
/// # Errors
/// The machine's.
pub fn await_claim(config: &Config, identity: &Identity) -> Result<bool, NodeError> {
    let hello = Hello {
        version: raftproto::version::PEER,
        cluster_id: config.cluster_id.clone(),
        node_id: config.node_id,
        store_id: identity.store_id.to_vec().into(),
        raft_id: identity.raft_id,
        commands_version: raftproto::version::COMMANDS,
        ..Hello::default()
    };
    let doing = "waiting until the other nodes have noted the new data directory";
    in_background(config, doing, async move |config, caller| {
        claim(config, caller, &hello).await
    })
}

fn run(dir: &Path, config: &Config, damaged: Option<u64>) -> Result<u64, NodeError> {
    let doing = match damaged {
        None => "waiting until an order makes this node a member",
        Some(_) => "waiting until a majority has replaced the damaged replicas",
    };
    let named = in_background(config, doing, async move |config, caller| {
        ask(config, caller, damaged).await
    })?;
    let path = bound_path(dir);
    let known = framed::read(&path)?.unwrap_or_default();
    let mut bound = Bound::parse(&String::from_utf8_lossy(&known));
    if bound.note(named.bound) {
        framed::write_atomic(&path, bound.text().as_bytes())?;
    }
    Ok(named.raft_id)
}

/// Asks the other nodes on an executor of its own, as no core runs yet; says meanwhile that the node is starting.
fn in_background<T: Send + 'static>(
    config: &Config,
    doing: &str,
    asks: impl AsyncFnOnce(&Config, &Caller) -> T + Send + 'static,
) -> Result<T, NodeError> {
    let failed = NodeError::Join;
    let config = config.clone();
    let (done, answer) = std::sync::mpsc::channel();
    let asking = executor::spawn_beside("join", move || async move {
        let timeouts: Rc<crate::core::timeouts::Timeouts> = Rc::default();
        crate::core::tasks::spawn(timeouts.clone().run()).detach();
        let caller = Caller::new(Rc::default(), timeouts);
        // Nobody listens if the node is gone.
        let _ = done.send(asks(&config, &caller).await);
    });
    let asking = asking.map_err(|e| failed(e.to_string()))?;
    let answered = loop {
        notify::starting(doing);
        match answer.recv_timeout(PAUSE) {
            Ok(answered) => break Some(answered),
            Err(RecvTimeoutError::Timeout) => executor::nudge(asking.thread()),
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    asking.join().map_err(|e| failed(e.to_string()))?;
    answered.ok_or_else(|| failed("the question broke off".to_owned()))
}

/// What the other nodes say of themselves, and who does not answer.
async fn ask_all(
    config: &Config,
    caller: &Caller,
    request: &StatusRequest,
) -> (Vec<StatusReply>, Vec<String>) {
    let (mut replies, mut errors) = (Vec::new(), Vec::new());
    for peer in others(config) {
        match caller.status(&peer.address, request.clone()).await {
            Ok(reply) => replies.push(reply),
            Err(error) => errors.push(format!("{}: {error}", peer.address)),
        }
    }
    (replies, errors)
}

fn others(config: &Config) -> impl Iterator<Item = &Peer> {
    config.peers.iter().filter(|p| p.id != config.node_id)
}

async fn claim(config: &Config, caller: &Caller, hello: &Hello) -> bool {
    let request = StatusRequest {
        claim: Some(hello.clone()),
        ..StatusRequest::default()
    };
    for round in 0u32.. {
        let (replies, errors) = ask_all(config, caller, &request).await;
        match judge_claim(hello.raft_id, &replies) {
            Ok(is_wanted) => return is_wanted,
            Err(reason) if round.is_multiple_of(ROUNDS_PER_LINE) => {
                let errors = errors.join(", ");
                log::info!("event=waiting_to_be_noted {reason} {errors}");
            }
            Err(_) => {}
        }
        glommio::timer::sleep(PAUSE).await;
    }
    false
}

async fn ask(config: &Config, caller: &Caller, damaged: Option<u64>) -> Named {
    let mut round = 0;
    loop {
        let request = StatusRequest::default();
        let (replies, mut errors) = ask_all(config, caller, &request).await;
        if let Some(damaged) = damaged
            && round % ROUNDS_PER_ORDER == 0
            && lacks_order(config.node_id, damaged, &replies)
        {
            errors.extend(order_replacement(config, caller).await.err());
        }
        match judge(config.node_id, &replies) {
            // The old one, by the word of those who have not heard yet.
            Ok(raft_id) if damaged.is_some_and(|damaged| raft_id <= damaged) => {}
            Ok(raft_id) => {
                log::info!("event=joining node={} raft_id={raft_id}", config.node_id);
                let bound = replies.iter().flat_map(|r| &r.bound_raft_ids);
                return Named {
                    raft_id,
                    bound: bound.copied().collect(),
                };
            }
            Err(reason) if round % ROUNDS_PER_LINE == 0 => {
                let errors = errors.join(", ");
                log::info!("event=waiting_to_join {reason} {errors}");
            }
            Err(_) => {}
        }
        round += 1;
        glommio::timer::sleep(PAUSE).await;
    }
}

/// Has a node put the order to the meta group, which takes it once a majority has it.
async fn order_replacement(config: &Config, caller: &Caller) -> Result<(), String> {
    let node_id = config.node_id;
    let mut errors = Vec::new();
    for peer in others(config) {
        let change = ChangeMembers {
            base: Vec::new(),
            change: Some(Change::Replace(node_id)),
        };
        let request = AdminRequest {
            from: None,
            is_forced: true,
            order: Some(Order::ChangeMembers(change)),
        };
        match caller.administer(&peer.address, request).await {
            Ok(reply) => {
                log::info!("event=replacement_ordered node={node_id} {}", reply.text);
                return Ok(());
            }
            Err(error) => errors.push(format!("{}: {error}", peer.address)),
        }
    }
    Err(errors.join(", "))
}
