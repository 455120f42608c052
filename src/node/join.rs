//! A new data directory of a cluster that is not new: its replicas get their raft id from the cluster.

use std::rc::Rc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use raftproto::peer::{StatusReply, StatusRequest};

use super::NodeError;
use super::notify::Notifier;
use crate::config::Config;
use crate::peer::Caller;

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Rounds between two lines of the log.
const ROUNDS_PER_LINE: u32 = 20;

/// Asks the other nodes until an order has made this one a member; answers the raft id of its replicas.
///
/// # Errors
/// The machine's.
pub fn await_membership(config: &Config, notifier: &mut Notifier) -> Result<u64, NodeError> {
    let failed = NodeError::Join;
    let config = config.clone();
    let (done, answer) = std::sync::mpsc::channel();
    let asking = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(64 << 10)
        .spawn(move || async move {
            // Nobody listens if the node is gone.
            let _ = done.send(ask(&config).await);
        });
    let asking = asking.map_err(|e| failed(e.to_string()))?;
    let raft_id = loop {
        notifier.starting("waiting until an order makes this node a member");
        match answer.recv_timeout(PAUSE) {
            Ok(raft_id) => break Some(raft_id),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    asking.join().map_err(|e| failed(e.to_string()))?;
    raft_id.ok_or_else(|| failed("the question broke off".to_owned()))
}

async fn ask(config: &Config) -> u64 {
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
        match judge(config.node_id, &replies) {
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
