//! This node as the other nodes see it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use futures_lite::StreamExt;
use raftproto::checkpoint::Member as StoredMember;
use raftproto::command::change_members::Change;
use raftproto::peer::{
    AdminReply, AdminRequest, Batch, FetchBytesReply, FetchBytesRequest, FetchCheckpointRequest,
    Hello, JudgeChunkReply, JudgeChunkRequest, PeerStatus, StatusReply, StatusRequest,
    admin_request::Order,
};
use storage::{StorageError, framed};

use super::cold_cache::ChunkId;
use super::members::listed;
use super::transfer::TransferError;
use super::{Core, Message, core_statuses};
use crate::group::{ChunkVerdict, Input};
use crate::meta::admission::{Bound, Known, admit};
use crate::peer::{CheckpointParts, Code, GrpcError, PeerEvents};
use crate::protocol::{GroupTarget, MemberChange, Op, Outcome, PackName, Request};

/// The [`PeerEvents`] of one core.
pub struct PeerShell(pub(super) Rc<Core>);

impl PeerEvents for PeerShell {
    fn hello(&self) -> Hello {
        self.0.hello()
    }

    fn random(&self) -> u64 {
        self.0.clock.random()
    }

    async fn admit(&self, hello: &Hello) -> Result<(), String> {
        let core = &self.0;
        let known = Known {
            raft_id: core.known_raft_id(hello.node_id),
            is_in_a_group: core.is_in_a_group(hello.raft_id),
            may_be_behind: core.may_be_behind(),
            level: core.tables.borrow().level,
        };
        admit(hello, known)?;
        core.bind(hello).await
    }

    fn on_batch(&self, from_node: u64, batch: Batch) {
        self.0.on_node_batch(from_node, batch);
    }

    fn on_link(&self, node: u64, hello: Option<&Hello>) {
        self.0.note_version(node, hello);
        if let Some(hello) = hello {
            let mut addresses = self.0.client_addresses.borrow_mut();
            addresses.insert(node, hello.client_address.clone());
            drop(addresses);
            self.0.clock.heed(node, hello.now_ms);
            let own = &self.0.loads.owners;
            self.0.balancing.note_cores(node, hello.cores, own);
            self.0.keep_backup_of(node, hello.dr_keep_ms);
            self.0.compare_places(node, hello);
            self.0.ask_again();
        }
        self.0.on_link_change(node, hello.is_some());
    }

    fn on_connections(&self, open: u64) {
        self.0.metrics.plain.peer_connections.set(open);
    }

    fn on_incoming(&self, hello: &Hello, is_open: bool) {
        if is_open {
            self.0.clock.heed(hello.node_id, hello.now_ms);
        }
        self.0.on_speaker(hello, is_open);
        if is_open {
            self.0.on_heard(hello.node_id);
        } else {
            // Its answers came this way.
            self.0.on_answers_lost(hello.node_id);
        }
    }

    async fn status(&self, request: StatusRequest) -> StatusReply {
        self.0.node_status(request).await
    }

    async fn administer(&self, request: AdminRequest) -> Result<AdminReply, GrpcError> {
        let refused = |text: &str| GrpcError::new(Code::InvalidArgument, text);
        match request.order {
            None => Err(refused("no order, or one that only a newer ursula knows")),
            Some(Order::TransferLeaders(order)) => {
                let to_node = (order.to_node != 0).then_some(order.to_node);
                let core = &self.0;
                core.transfer_leaders(order.group, to_node);
                for other in (0..core.cores).filter(|c| *c != core.id) {
                    let group = order.group;
                    core.post_answer(other, Message::TransferLeaders { group, to_node });
                }
                let text = "the groups that it leads of those hand over".to_owned();
                Ok(AdminReply { text })
            }
            Some(Order::ChangeMembers(mut order)) => {
                if order.base.is_empty() {
                    order.base = self.0.founders();
                }
                if let Some(Change::Add(added)) = &order.change
                    && added.cluster_address.is_empty()
                {
                    return Err(refused("the node has no address: give host:port"));
                }
                if let Some(said) = self.0.look_at_order(&order, request.is_forced).await? {
                    return Ok(said);
                }
                let op = crate::wire::change(order).map_err(|e| refused(&e.to_string()))?;
                self.0.change_members(op).await
            }
        }
    }

    async fn bytes(&self, request: FetchBytesRequest) -> Result<FetchBytesReply, GrpcError> {
        let given = self.0.bytes_for_other(&request).await;
        let refused =
            |refusal| GrpcError::new(Code::Unavailable, format!("not given: {refusal:?}"));
        let data = given.map_err(refused)?;
        let crc32c = crc32c::crc32c(&data);
        Ok(FetchBytesReply { data, crc32c })
    }

    async fn judge_chunk(&self, request: JudgeChunkRequest) -> JudgeChunkReply {
        let chunk = ChunkId {
            group: request.group,
            pack: PackName::from_message(request.pack.as_ref()),
            position: request.position,
        };
        let verdict = self.0.judge_chunk(chunk, false).await;
        JudgeChunkReply {
            is_lost: verdict == ChunkVerdict::Lost,
            is_unneeded: verdict == ChunkVerdict::Unneeded,
        }
    }

    async fn checkpoint(
        &self,
        request: FetchCheckpointRequest,
    ) -> Result<CheckpointParts, GrpcError> {
        let Some(disk) = &self.0.disk else {
            return Err(GrpcError::new(
                Code::FailedPrecondition,
                "this node has no disk",
            ));
        };
        let failed = |error: TransferError| GrpcError::new(Code::Unavailable, error.to_string());
        let given = self.0.give_checkpoint(disk.dir.clone(), request).await;
        let parts = given.map_err(failed)?;
        Ok(Box::pin(parts.map(move |part| part.map_err(failed))))
    }
}

/// One writer of the file at a time, of all cores.
static BINDING: Mutex<()> = Mutex::new(());

/// Which data directories the replicas of all nodes have, as this one has noted it.
pub fn bound_path(dir: &Path) -> PathBuf {
    dir.join("peers")
}

/// Notes which data directory a replica has, or refuses one that has another: it lost its log, and with it the votes and
/// entries that others count on (Raft, section 5.2). Before anything that it says counts, this is on disk. Blocks.
fn bind(path: &Path, hello: &Hello) -> Result<Result<(), String>, StorageError> {
    let _one = BINDING.lock().unwrap_or_else(PoisonError::into_inner);
    let known = framed::read(path)?.unwrap_or_default();
    let mut bound = Bound::parse(&String::from_utf8_lossy(&known));
    Ok(match bound.bind(hello) {
        Ok(true) => {
            framed::write_atomic(path, bound.text().as_bytes())?;
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(refused) => Err(refused),
    })
}

impl Core {
    /// This node as it introduces itself.
    pub(super) fn hello(&self) -> Hello {
        Hello {
            version: raftproto::version::PEER,
            cluster_id: self.config.cluster_id.clone(),
            node_id: self.config.node_id,
            store_id: bytes::Bytes::copy_from_slice(&self.identity.store_id),
            group_count: self.config.raft_group_count as u32,
            core: u32::from(self.id),
            cores: u32::from(self.cores),
            client_address: self.identity.client_address.to_string(),
            cluster_address: self.own_cluster_address(),
            commands_version: raftproto::version::COMMANDS,
            now_ms: self.clock.system_ms(),
            raft_id: self.identity.raft_id,
            election_timeout_ms: self.config.election_timeout_ms,
            dr_keep_ms: if self.config.dr {
                self.config.dr_keep_ms
            } else {
                0
            },
            cold_place: self
                .config
                .cold_place()
                .map_or_else(String::new, |place| place.shared_name()),
            takes_parts: true,
        }
    }

    fn own_cluster_address(&self) -> String {
        let own = self
            .config
            .peers
            .iter()
            .find(|p| p.id == self.config.node_id);
        match (own, self.identity.cluster_listen) {
            (Some(own), _) => own.address.clone(),
            (None, Some(address)) if !address.ip().is_unspecified() => address.to_string(),
            _ => String::new(),
        }
    }

    /// The raft id of a node's replicas, by the newest members known here; `None`: it is no member.
    pub(super) fn known_raft_id(&self, node: u64) -> Option<u64> {
        let tables = self.tables.borrow();
        if !tables.members.is_empty() {
            let member = tables.members.iter().find(|m| m.node() == node);
            return member.map(|m| m.raft_id);
        }
        let founder = self.config.peers.iter().find(|p| p.id == node);
        founder.map(|p| p.id)
    }

    /// The members as the cluster was founded.
    fn founders(&self) -> Vec<raftproto::command::Member> {
        let founders = self
            .config
            .peers
            .iter()
            .map(|p| raftproto::command::Member {
                raft_id: p.id,
                cluster_address: p.address.clone(),
                drained: false,
            });
        founders.collect()
    }

    async fn change_members(self: &Rc<Self>, op: Op) -> Result<AdminReply, GrpcError> {
        let target = GroupTarget::Meta;
        let is_member = |node: u64| {
            self.tables
                .borrow()
                .members
                .iter()
                .any(|m| m.node() == node)
        };
        let added = match &op {
            Op::ChangeMembers {
                change: MemberChange::Add(added),
                ..
            } => Some(added.node()).filter(|node| !is_member(*node)),
            _ => None,
        };
        match self.ask(Request { target, op }).await {
            Outcome::Members(members) => {
                let again = members
                    .iter()
                    .find(|m| Some(m.node()) == added && m.raft_id != m.node());
                let mut text = listed(&members);
                if let Some(again) = again {
                    text += &format!(
                        "\nnode {} was a member before, and is one now as a new replica: if its --wal-dir is of before that, \
                         move it away and start the node with an empty one",
                        again.node()
                    );
                }
                Ok(AdminReply { text })
            }
            Outcome::Refused(crate::protocol::Refusal::BadMembers(text)) => {
                Err(GrpcError::new(Code::FailedPrecondition, text))
            }
            Outcome::Refused(crate::protocol::Refusal::Unavailable) => {
                let text = "nobody led the meta group: a majority of the members must run and reach each other";
                Err(GrpcError::new(Code::Unavailable, text))
            }
            outcome => {
                let text = format!("the meta group did not take it, try again: {outcome:?}");
                Err(GrpcError::new(Code::Unavailable, text))
            }
        }
    }

    /// Hands over the group, or all that this core leads.
    pub(super) fn transfer_leaders(self: &Rc<Self>, group: u32, to_node: Option<u64>) {
        let is_meant = |g: &crate::group::Group| {
            g.is_leader() && !g.is_alone() && (group == u32::MAX || g.id() == group)
        };
        let groups = self.groups.borrow();
        let led: Vec<u32> = groups
            .values()
            .filter(|g| is_meant(g))
            .map(|g| g.id())
            .collect();
        drop(groups);
        for group in &led {
            self.step(*group, Input::TransferLeader(to_node));
        }
    }

    pub(super) async fn node_status(self: &Rc<Self>, request: StatusRequest) -> StatusReply {
        if request.only_node {
            return StatusReply {
                node: Some(self.hello()),
                ..StatusReply::default()
            };
        }
        let claim_refused = match &request.claim {
            Some(claim) => self.note_claim(claim).await.err(),
            None => None,
        };
        let reports = self.probe_all(request.with_hashes).await;
        let cores = core_statuses(&reports, self.identity.raft_id);
        let gives_up_replicas = reports.iter().flatten().any(|r| r.gives_up_replicas);
        let mut groups: Vec<_> = reports
            .into_iter()
            .flatten()
            .flat_map(|r| r.groups)
            .collect();
        groups.sort_unstable_by_key(|g| g.group);
        let own = self.identity.raft_id;
        let groups_led = groups.iter().filter(|g| g.leader == own).count() as u32;
        let groups_without_leader = groups.iter().filter(|g| g.leader == 0).count() as u32;
        let addresses = self.client_addresses.borrow();
        let links = self.links.borrow();
        let peers = links.iter().map(|(node, link)| PeerStatus {
            node_id: *node,
            cluster_address: link.address().to_owned(),
            connected: link.is_up(),
            client_address: addresses.get(node).cloned().unwrap_or_default(),
        });
        let tables = self.tables.borrow();
        let members = tables.members.iter().map(|m| StoredMember {
            raft_id: m.raft_id,
            cluster_address: m.address.clone(),
            drained: m.drained,
        });
        StatusReply {
            node: Some(self.hello()),
            peers: peers.collect(),
            groups: if request.with_groups {
                groups
            } else {
                Vec::new()
            },
            groups_led,
            groups_without_leader,
            members: members.collect(),
            members_as_of: tables.as_of,
            bound_raft_ids: self.bound_raft_ids(),
            level: tables.level,
            cores,
            claim_refused: claim_refused.unwrap_or_default(),
            gives_up_replicas,
        }
    }

    /// Notes a new data directory that says nothing yet.
    async fn note_claim(&self, claim: &Hello) -> Result<(), String> {
        let known = (self.config.cluster_id.as_str(), claim.raft_id & 0xffff);
        if (claim.cluster_id.as_str(), claim.node_id) != known || claim.raft_id == 0 {
            return Err(format!(
                "raft id {:#x} of node {} in cluster {} is none of this cluster {}",
                claim.raft_id, claim.node_id, claim.cluster_id, self.config.cluster_id
            ));
        }
        self.bind(claim).await
    }

    /// Notes on disk which data directory a replica has.
    async fn bind(&self, hello: &Hello) -> Result<(), String> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let (path, hello) = (bound_path(&disk.dir), hello.clone());
        let bound = storage::blocking::run(move || bind(&path, &hello)).await;
        bound.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// The raft ids that are known with their data directories.
    pub(super) fn bound_raft_ids(&self) -> Vec<u64> {
        let Some(disk) = &self.disk else {
            return Vec::new();
        };
        let known = framed::read(&bound_path(&disk.dir)).ok().flatten();
        let known = known.unwrap_or_default();
        let bound = Bound::parse(&String::from_utf8_lossy(&known));
        bound.raft_ids().chain([self.identity.raft_id]).collect()
    }

    /// What a node was asked may have been answered on a connection that broke.
    fn on_answers_lost(self: &Rc<Self>, node: u64) {
        let ids: Vec<u32> = self.groups.borrow().keys().copied().collect();
        for id in ids {
            self.step(id, Input::AnswersLost(node));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_changed_is_refused_and_one_that_was_replaced_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        let hello = |raft_id, store: u8| Hello {
            node_id: raft_id & 0xffff,
            raft_id,
            store_id: vec![store; 16].into(),
            ..Hello::default()
        };
        for (raft_id, store, is_good) in [
            (2, 1, true),
            (3, 1, true),
            (2, 1, true),
            (2, 9, false),
            ((1 << 16) + 2, 9, true),
            ((1 << 16) + 2, 1, false),
            (3, 1, true),
        ] {
            let bound = bind(&path, &hello(raft_id, store)).unwrap();
            assert_eq!(bound.is_ok(), is_good, "{raft_id} {store}: {bound:?}");
        }
    }
}
