//! An order about members, before the meta group gets it: what only those know who see the groups and the nodes; and whether this
//! node is a member itself.

use std::rc::Rc;
use std::time::Duration;

use raftproto::command::{ChangeMembers, change_members::Change};
use raftproto::peer::{AdminReply, StatusReply, StatusRequest};

use super::Core;
use crate::group::node_of;
use crate::meta::joining::{Replaced, judge_replacement};
use crate::peer::{Code, GrpcError};
use crate::protocol::Member;

/// Between two looks at whether a member is known by now.
const LOOK: Duration = Duration::from_millis(100);

/// So many looks: the order that made it one may have gone to another node.
const LOOKS: u32 = 20;

/// The members, as an order is answered.
pub(super) fn listed(members: &[Member]) -> String {
    let members = members
        .iter()
        .map(|m| format!("{}={}", m.node(), m.address));
    format!("members: {}", members.collect::<Vec<_>>().join(", "))
}

impl Core {
    /// Refuses what is certainly a mistake; answers what needs no order.
    ///
    /// # Errors
    /// Why it is refused, and what to do.
    pub(super) async fn look_at_order(
        self: &Rc<Self>,
        order: &ChangeMembers,
        is_forced: bool,
    ) -> Result<Option<AdminReply>, GrpcError> {
        let refused = |text: String| Err(GrpcError::new(Code::FailedPrecondition, text));
        match &order.change {
            Some(Change::Add(added)) => {
                let (id, address) = (added.raft_id, &added.cluster_address);
                if id == 0 || id != node_of(id) {
                    let text = format!("{id} is no number of a node: they are 1 to 65535");
                    return Err(GrpcError::new(Code::InvalidArgument, text));
                }
                let owner = self.member_at(address).filter(|node| *node != id);
                match owner {
                    Some(node) => refused(format!(
                        "{address} is the address of node {node}: two nodes cannot share it"
                    )),
                    None => Ok(None),
                }
            }
            Some(Change::Remove(node)) if !self.is_or_was_member(*node).await => {
                refused(format!("node {node} is not a member"))
            }
            Some(Change::Replace(node)) if !is_forced => self.look_at_replacement(*node).await,
            _ => Ok(None),
        }
    }

    async fn look_at_replacement(
        self: &Rc<Self>,
        node: u64,
    ) -> Result<Option<AdminReply>, GrpcError> {
        let Some(wanted) = self.known_raft_id(node) else {
            // The meta group knows best.
            return Ok(None);
        };
        let request = StatusRequest {
            with_groups: true,
            ..StatusRequest::default()
        };
        let is_own = node == self.config.node_id;
        let address = self
            .links
            .borrow()
            .get(&node)
            .map(|l| l.address().to_owned());
        let own = self.node_status(request.clone()).await;
        let told = match address {
            _ if is_own => Some(own.clone()),
            Some(address) => self.caller.status(&address, request).await.ok(),
            None => None,
        };
        // One that the others do not listen to may still answer an operator.
        let is_heard = is_own || self.links.borrow().get(&node).is_some_and(|l| l.is_up());
        let running = told.as_ref().filter(|_| is_heard);
        let running = running.and_then(|r| r.node.as_ref()).map(|h| h.raft_id);
        let has_trouble = |reply: &StatusReply| reply.groups.iter().any(|g| !g.trouble.is_empty());
        let mut memberships = own.groups.iter().map(|g| g.membership.as_ref());
        let known = Replaced {
            wanted,
            running,
            is_bound: own.bound_raft_ids.contains(&wanted),
            votes: memberships.all(|m| m.is_some_and(|m| m.voters.contains(&wanted))),
            has_trouble: told.as_ref().is_some_and(has_trouble),
        };
        match judge_replacement(known) {
            Ok(true) => Ok(None),
            Ok(false) => {
                let members = listed(&self.tables.borrow().members);
                let text = format!(
                    "{members}; node {node} is being replaced already: start it with an empty directory and --join, if it does \
                     not run so"
                );
                Ok(Some(AdminReply { text }))
            }
            Err(text) => Err(GrpcError::new(Code::FailedPrecondition, text)),
        }
    }

    fn member_at(&self, address: &str) -> Option<u64> {
        let tables = self.tables.borrow();
        if !tables.members.is_empty() {
            let member = tables.members.iter().find(|m| m.address == address);
            return member.map(|m| m.node());
        }
        let founder = self.config.peers.iter().find(|p| p.address == address);
        founder.map(|p| p.id)
    }

    /// A node that is no member any more is one that may be removed again.
    async fn is_or_was_member(&self, node: u64) -> bool {
        for _ in 0..LOOKS {
            let mut bound = self.bound_raft_ids().into_iter();
            if self.known_raft_id(node).is_some() || bound.any(|id| node_of(id) == node) {
                return true;
            }
            self.sleep(LOOK).await;
        }
        false
    }

    /// Why this node's replicas are not what the cluster wants, and what to do; `None`: they are, for all that is known here.
    pub(super) fn standing(&self) -> Option<String> {
        let (node, own) = (self.config.node_id, self.identity.raft_id);
        if self.tables.borrow().members.is_empty() {
            return None;
        }
        match self.known_raft_id(node) {
            None => Some(format!(
                "node {node} is not a member any more: stop it. To make it one again, start it with an empty directory and \
                 --join, and `ursula cluster add {node}=HOST:PORT`"
            )),
            Some(wanted) if wanted > own => Some(format!(
                "node {node} was replaced, and what is on its disk was given up: stop it, set its data directory aside, and \
                 start it with an empty one and --join"
            )),
            Some(_) => None,
        }
    }

    /// Says so in the log when that changes.
    pub(super) fn tell_standing(&self) {
        let standing = self.standing();
        let was_told = self.is_standing_told.replace(standing.is_some());
        if let Some(text) = standing.filter(|_| !was_told && self.id == 0) {
            log::error!("event=not_a_member {text}");
        }
    }
}
