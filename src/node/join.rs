//! A new data directory of a cluster that is not new: its replicas get their raft id from the cluster. So do those that take
//! the place of damaged ones.

use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use raftproto::command::{ChangeMembers, change_members::Change};
use raftproto::peer::{AdminRequest, StatusRequest, admin_request::Order};

use super::{NodeError, notify};
use crate::config::Config;
use crate::meta::joining::{judge, lacks_order};
use crate::peer::Caller;

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Rounds between two orders: each one makes the replicas of the one before it void.
const ROUNDS_PER_ORDER: u32 = 40;

/// Rounds between two lines of the log.
const ROUNDS_PER_LINE: u32 = 20;

/// Asks the other nodes until an order has made this one a member; answers the raft id of its replicas.
///
/// # Errors
/// The machine's.
pub fn await_membership(config: &Config) -> Result<u64, NodeError> {
    run(config, None)
}

/// Has the replicas of this node, whose raft id was `damaged`, replaced by a majority; answers the raft id of the new ones.
///
/// # Errors
/// The machine's.
pub fn await_replacement(config: &Config, damaged: u64) -> Result<u64, NodeError> {
    run(config, Some(damaged))
}

fn run(config: &Config, damaged: Option<u64>) -> Result<u64, NodeError> {
    let failed = NodeError::Join;
    let config = config.clone();
    let (done, answer) = std::sync::mpsc::channel();
    let asking = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(64 << 10)
        .spawn(move || async move {
            // Nobody listens if the node is gone.
            let _ = done.send(ask(&config, damaged).await);
        });
    let asking = asking.map_err(|e| failed(e.to_string()))?;
    let raft_id = loop {
        notify::starting(match damaged {
            None => "waiting until an order makes this node a member",
            Some(_) => "waiting until a majority has replaced the damaged replicas",
        });
        match answer.recv_timeout(PAUSE) {
            Ok(raft_id) => break Some(raft_id),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    asking.join().map_err(|e| failed(e.to_string()))?;
    raft_id.ok_or_else(|| failed("the question broke off".to_owned()))
}

async fn ask(config: &Config, damaged: Option<u64>) -> u64 {
    let timeouts: Rc<crate::core::timeouts::Timeouts> = Rc::default();
    glommio::spawn_local(timeouts.clone().run()).detach();
    let caller = Caller::new(Rc::default(), timeouts);
    let others: Vec<_> = config
        .peers
        .iter()
        .filter(|p| p.id != config.node_id)
        .collect();
    let mut round = 0;
    loop {
        let mut replies = Vec::new();
        let mut errors = Vec::new();
        for peer in &others {
            let request = StatusRequest::default();
            match caller.status(&peer.address, request).await {
                Ok(reply) => replies.push(reply),
                Err(error) => errors.push(format!("{}: {error}", peer.address)),
            }
        }
        if let Some(damaged) = damaged
            && round % ROUNDS_PER_ORDER == 0
            && lacks_order(config.node_id, damaged, &replies)
        {
            errors.extend(
                order_replacement(&caller, config.node_id, &others)
                    .await
                    .err(),
            );
        }
        match judge(config.node_id, &replies) {
            // The old one, by the word of those who have not heard yet.
            Ok(raft_id) if damaged.is_some_and(|damaged| raft_id <= damaged) => {}
            Ok(raft_id) => {
                log::info!("event=joining node={} raft_id={raft_id}", config.node_id);
                return raft_id;
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
async fn order_replacement(
    caller: &Caller,
    node_id: u64,
    others: &[&crate::config::Peer],
) -> Result<(), String> {
    let mut errors = Vec::new();
    for peer in others {
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
