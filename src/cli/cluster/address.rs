//! Addresses in orders: what one looks like, and that a member is reached at a new one before the cluster notes it.

use raftproto::command::Member;
use raftproto::peer::StatusRequest;

use super::{CliError, NodeStatus, Operator, is_voter, wanted};

/// `HOST:PORT`, as another node can connect to it.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
}

impl Operator {
    /// A member's address is not changed to one where it does not answer: no other node would reach it any more.
    pub(super) async fn check_address(&self, added: &Member) -> Result<(), CliError> {
        let all = self.all(false).await?;
        let Some(known) = known_address(&all, added.raft_id) else {
            return Ok(());
        };
        let address = &added.cluster_address;
        if known == *address {
            return Ok(());
        }
        let request = StatusRequest {
            only_node: true,
            ..StatusRequest::default()
        };
        let found = self.caller.status(address, request).await;
        let own = all.first().and_then(|(_, s)| s.as_ref().ok()?.node.clone());
        let cluster_id = own.map(|n| n.cluster_id).unwrap_or_default();
        let what = match found.map(|status| status.node.unwrap_or_default()) {
            Ok(node) if node.node_id == added.raft_id && node.cluster_id == cluster_id => {
                return Ok(());
            }
            Ok(node) => format!(
                "node {} of the cluster {:?} answers at {address}",
                node.node_id, node.cluster_id
            ),
            Err(error) => format!("nobody answers at {address} ({})", error.message),
        };
        let node = added.raft_id;
        Err(CliError::Conflict(format!(
            "node {node} is a member at {known}, and {what}; nothing was changed. To move it, start it with the new address \
                 first; if its disk is lost, order `ursula cluster replace {node}`; to note the address all the same, add --unseen"
        )))
    }
}

/// Where a member is reached, as the cluster knows it; by how it was founded where no order has changed that.
fn known_address(all: &[NodeStatus], node: u64) -> Option<String> {
    if !is_voter(all, node) {
        return None;
    }
    let members = wanted(all);
    if !members.is_empty() {
        let known = members.into_iter().find(|m| m.raft_id & 0xffff == node);
        return known.map(|m| m.cluster_address);
    }
    let replies = || all.iter().filter_map(|(_, s)| s.as_ref().ok());
    let hellos = replies().filter_map(|s| s.node.as_ref());
    let own = hellos.map(|n| (n.node_id, &n.cluster_address));
    let peers = replies().flat_map(|s| &s.peers);
    let others = peers.map(|p| (p.node_id, &p.cluster_address));
    let mut known = own
        .chain(others)
        .filter(|(n, a)| *n == node && !a.is_empty());
    known.next().map(|(_, address)| address.clone())
}
