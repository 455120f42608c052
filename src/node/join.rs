//! A new data directory of a cluster that is not new: its replicas get their raft id from the cluster. So do those that take
//! the place of damaged ones.

use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use raftproto::command::{ChangeMembers, change_members::Change};
use raftproto::peer::{AdminRequest, StatusReply, StatusRequest, admin_request::Order};

use super::{NodeError, notify};
use crate::config::Config;
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

/// Nobody knows of replicas that take the place of the damaged ones, and the node was not removed meanwhile.
fn lacks_order(node_id: u64, damaged: u64, replies: &[StatusReply]) -> bool {
    let lists = replies.iter().map(|r| &r.members);
    let lists: Vec<_> = lists.filter(|members| !members.is_empty()).collect();
    let ids = lists.iter().flat_map(|m| m.iter()).map(|m| m.raft_id);
    let newest = ids.filter(|id| id & 0xffff == node_id).max();
    let is_member = newest.is_some() || lists.is_empty();
    !replies.is_empty() && is_member && newest.unwrap_or(0) <= damaged
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

/// The raft id that this node's new replicas may take: of the newest members that anyone knows, if no data directory has
/// it. A majority must say so: those who know the directory that had it may be away, and what it acknowledged to them would
/// be forgotten with it.
fn judge(node_id: u64, replies: &[StatusReply]) -> Result<u64, String> {
    let own = |reply: &StatusReply| {
        let ids = reply.members.iter().map(|m| m.raft_id);
        ids.filter(|id| id & 0xffff == node_id).max()
    };
    let newest = replies
        .iter()
        .filter(|r| own(r).is_some())
        .max_by_key(|r| own(r));
    let Some((raft_id, newest)) = newest.and_then(|r| Some((own(r)?, r))) else {
        return Err(format!(
            "no order has made node {node_id} a member: `ursula cluster add {node_id}=HOST:PORT` or, after its disk was \
             lost, `ursula cluster replace {node_id}`"
        ));
    };
    if replies.iter().any(|r| r.bound_raft_ids.contains(&raft_id)) {
        return Err(format!(
            "node {node_id} is a member with another data directory: `ursula cluster replace {node_id}` gives that one up"
        ));
    }
    let others = newest.members.iter().map(|m| m.raft_id & 0xffff);
    let others: Vec<u64> = others.filter(|node| *node != node_id).collect();
    let needed = others.len().min(newest.members.len() / 2 + 1);
    let answered = replies.iter().filter_map(|r| r.node.as_ref());
    let answered = answered.filter(|hello| others.contains(&hello.node_id));
    let answered = answered.count();
    if answered < needed {
        return Err(format!(
            "{answered} of the other members answer, {needed} must: one that is away may know of another data directory"
        ));
    }
    Ok(raft_id)
}

#[cfg(test)]
mod tests {
    use raftproto::checkpoint::Member;
    use raftproto::peer::Hello;

    use super::*;

    #[test]
    fn a_damaged_member_orders_its_replacement_until_somebody_knows_of_it() {
        let reply = |members: &[u64]| StatusReply {
            members: members
                .iter()
                .map(|raft_id| Member {
                    raft_id: *raft_id,
                    ..Member::default()
                })
                .collect(),
            ..StatusReply::default()
        };
        let new = (1 << 16) + 2;
        for (replies, is_lacking) in [
            (vec![], false),
            (vec![reply(&[]), reply(&[])], true),
            (vec![reply(&[1, 2, 3]), reply(&[])], true),
            (vec![reply(&[1, 2, 3]), reply(&[1, new, 3])], false),
            (vec![reply(&[1, 3])], false),
        ] {
            assert_eq!(lacks_order(2, 2, &replies), is_lacking, "{replies:?}");
        }
        assert!(lacks_order(2, new, &[reply(&[1, new, 3])]));
    }

    #[test]
    fn a_raft_id_is_taken_once() {
        let reply = |node_id, members: &[u64], bound: &[u64]| StatusReply {
            node: Some(Hello {
                node_id,
                ..Hello::default()
            }),
            members: members
                .iter()
                .map(|raft_id| Member {
                    raft_id: *raft_id,
                    ..Member::default()
                })
                .collect(),
            bound_raft_ids: bound.to_vec(),
            ..StatusReply::default()
        };
        let replaced = (1 << 16) + 2;
        let (old, new) = ([1, 2, 3], [1, replaced, 3]);
        assert!(judge(2, &[]).is_err());
        assert!(judge(2, &[reply(1, &[], &[1, 2])]).is_err());
        assert!(judge(2, &[reply(1, &old, &[1, 2])]).is_err());
        let all = [1, 2, 3].map(|node| reply(node, &[1, 2, 3, 4], &[1, 2]));
        assert_eq!(judge(4, &all), Ok(4));
        assert_eq!(judge(2, &[reply(1, &[1, 2], &[1])]), Ok(2));
        let late = reply(1, &old, &[1, 2]);
        assert_eq!(judge(2, &[late, reply(3, &new, &[1, 2])]), Ok(replaced));
        // Node 1 may have it.
        assert!(judge(2, &[reply(3, &new, &[1, 2])]).is_err());
        assert!(judge(2, &[reply(1, &new, &[1, replaced])]).is_err());
    }
}
