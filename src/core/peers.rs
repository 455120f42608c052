//! The other nodes: what this core's groups say to them, and what they say to this node's groups. One link per node
//! carries all that a turn brings for it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use raftproto::peer::{Batch, ForwardedReply, ForwardedRequest, HibernateGroup, RaftMessage};

use super::listen::ListenError;
use super::peer_events::PeerShell;
use super::{Core, Message, Waiting};
use crate::group::{BadMessage, Input, is_commit_notice, may_overtake, node_of};
use crate::ops::metrics::add;
use crate::peer::{BatchItem, Link, Question, Transport};
use crate::protocol::{Outcome, Refusal, Request};
use crate::wire;

/// How long a removed node is still answered, in microseconds: longer than a request waits for a leader.
const FAREWELL_US: u64 = 6_000_000;

impl Core {
    /// Listens to the other nodes and connects to them; `None`: the node is alone. Answers what serves them, until
    /// `peers_stop` is raised.
    pub(super) fn connect_peers(
        self: &Rc<Self>,
    ) -> Result<Option<glommio::task::JoinHandle<()>>, ListenError> {
        let Some(address) = self.identity.cluster_listen else {
            return Ok(None);
        };
        let socket = super::listen::listener(address)?;
        let serving = crate::peer::serve(socket, self.transport());
        let serving = super::tasks::spawn(serving).detach();
        self.follow_members();
        Ok(Some(serving))
    }

    fn transport(self: &Rc<Self>) -> Transport<PeerShell> {
        Transport {
            settings: Rc::default(),
            timeouts: self.timeouts.clone(),
            beats: self.peers_beats.clone(),
            stop: self.peers_stop.clone(),
            events: Rc::new(PeerShell(self.clone())),
        }
    }

    /// Links to those that are members or are to be, and to those that go: see [`Core::stays`].
    pub(super) fn follow_members(self: &Rc<Self>) {
        if self.identity.cluster_listen.is_none() {
            return;
        }
        self.tell_standing();
        let recorded = self.tables.borrow().members.clone();
        let founders = self.config.peers.iter().map(|p| (p.id, p.address.clone()));
        let mut wanted: BTreeMap<u64, String> = if recorded.is_empty() {
            founders.collect()
        } else {
            recorded
                .into_iter()
                .map(|m| (m.node(), m.address))
                .collect()
        };
        self.add_guests(&mut wanted);
        wanted.remove(&self.config.node_id);
        let needed = self.nodes_of_groups();
        let is_stale = |node: &u64, link: &Rc<Link>| {
            let address = wanted.get(node);
            address.map_or_else(|| !self.stays(*node), |address| address != link.address())
        };
        self.leaving
            .borrow_mut()
            .retain(|node, _| !wanted.contains_key(node));
        let mut links = self.links.borrow_mut();
        let stale: Vec<Rc<Link>> = links
            .extract_if(.., |node, link| is_stale(node, link))
            .map(|(_, link)| link)
            .collect();
        for founder in &self.config.peers {
            if needed.contains(&founder.id) && !links.contains_key(&founder.id) {
                let address = founder.address.clone();
                wanted.entry(founder.id).or_insert(address);
            }
        }
        let new: Vec<(u64, String)> = wanted
            .into_iter()
            .filter(|(node, _)| !links.contains_key(node))
            .collect();
        drop(links);
        drop(stale);
        let transport = self.transport();
        for (node, address) in new {
            let link = Rc::new(Link::start(&transport, node, &address));
            self.links.borrow_mut().insert(node, link);
        }
    }

    /// The other nodes that have a replica of an own group.
    fn nodes_of_groups(&self) -> BTreeSet<u64> {
        let groups = self.groups.borrow();
        let members = groups.values().map(crate::group::Group::membership);
        let ids = members.flat_map(|m| [m.voters, m.voters_outgoing, m.learners, m.learners_next]);
        let mut nodes: BTreeSet<u64> = ids.flatten().map(node_of).collect();
        nodes.remove(&self.config.node_id);
        nodes
    }

    /// A replica is a member of an own group.
    pub(super) fn is_in_a_group(&self, raft_id: u64) -> bool {
        let groups = self.groups.borrow();
        groups.values().any(|group| {
            let m = group.membership();
            [&m.voters, &m.voters_outgoing, &m.learners, &m.learners_next]
                .iter()
                .any(|ids| ids.contains(&raft_id))
        })
    }

    /// A node that shall go is spoken to until own groups have let it out, and for as long after as requests wait: it
    /// hears of its removal, and what it had asked for others is answered.
    fn stays(&self, node: u64) -> bool {
        let is_in = |group: &crate::group::Group| {
            let now = group.membership();
            let all = [now.voters, now.voters_outgoing, now.learners];
            all.iter().flatten().any(|id| node_of(*id) == node)
        };
        let now_us = self.clock.monotonic_us();
        let mut leaving = self.leaving.borrow_mut();
        let until_us = leaving.entry(node).or_insert(now_us + FAREWELL_US);
        if self.groups.borrow().values().any(is_in) {
            *until_us = now_us + FAREWELL_US;
        }
        let stays = now_us < *until_us;
        if !stays {
            leaving.remove(&node);
        }
        stays
    }

    /// Brings own groups a step nearer to the members that they shall have.
    pub(super) fn reconcile(self: &Rc<Self>) {
        let is_leaving = !self.leaving.borrow().is_empty();
        if is_leaving {
            self.follow_members();
        }
        let members = self.tables.borrow().members.clone();
        if members.is_empty() {
            return;
        }
        let wanted: Vec<u64> = members.iter().map(|m| m.raft_id).collect();
        let groups = self.groups.borrow();
        let led = groups
            .values()
            .filter(|g| g.is_ready() && !g.has_members(&wanted));
        let led: Vec<u32> = led.map(crate::group::Group::id).collect();
        drop(groups);
        for group in led {
            self.step(group, Input::Reconcile(wanted.clone()));
        }
    }

    /// Sends a replica's message; Raft lives with losses.
    pub(super) fn send_to_peer(&self, message: RaftMessage) {
        if let Some(link) = self.links.borrow().get(&node_of(message.to)) {
            let _ = if is_commit_notice(&message) {
                link.take_along(BatchItem::Raft(message))
            } else if may_overtake(&message) {
                link.post(BatchItem::Pulse(message))
            } else {
                link.post(BatchItem::Raft(message))
            };
        }
    }

    /// Tells another node that a group sleeps.
    pub(super) fn tell_of_sleep(&self, node: u64, notice: HibernateGroup) {
        if let Some(link) = self.links.borrow().get(&node) {
            let _ = link.post(BatchItem::Hibernate(notice));
        }
    }

    /// Asks a group on another node.
    pub(super) fn forward(self: &Rc<Self>, group: u32, node: u64, token: u64, request: &Request) {
        let link = self.links.borrow().get(&node).cloned();
        // What has no encoding is not for other nodes.
        let sent = wire::encode_request(request).ok().zip(link);
        let sent = sent.is_some_and(|(request, link)| {
            let question = Question {
                group,
                token,
                request,
            };
            link.post(BatchItem::Request(question)).is_ok()
        });
        add(&self.metrics.plain.forwarded_requests_total, 1);
        if !sent {
            // Not at once: the group is in the middle of a step.
            let core = self.clone();
            super::tasks::spawn(async move {
                futures_lite::future::yield_now().await;
                core.step(group, Input::NotSent { token });
            })
            .detach();
        }
    }

    /// Answers another node. If the link is down, its asker waits until it gives up.
    pub(super) fn reply_to_peer(&self, node: u64, group: u32, token: u64, outcome: &Outcome) {
        if let Some(link) = self.links.borrow().get(&node) {
            let outcome = wire::encode_outcome(outcome);
            let reply = ForwardedReply {
                group,
                token,
                outcome,
            };
            let _ = link.post(BatchItem::Reply(reply));
        }
    }

    /// Takes what a node sent to this one: own groups at once, others by their cores.
    pub(super) fn on_node_batch(self: &Rc<Self>, node: u64, batch: Batch) {
        let has_room = !batch.has_no_room;
        if self.pace.note_room(node, has_room) {
            log::info!(
                "event=peer_room core={} node={node} has_room={has_room}",
                self.id
            );
            for core in (0..self.cores).filter(|c| *c != self.id) {
                self.post_answer(core, Message::PeerRoom { node, has_room });
            }
        }
        if self.cores == 1 {
            return self.on_peer_batch(node, batch);
        }
        let mut parts: Vec<Option<Box<Batch>>> = (0..self.cores).map(|_| None).collect();
        for message in batch.raft {
            let owner = usize::from(self.owner(message.group));
            parts[owner].get_or_insert_default().raft.push(message);
        }
        for request in batch.requests {
            let owner = usize::from(self.owner(request.group));
            parts[owner].get_or_insert_default().requests.push(request);
        }
        for reply in batch.replies {
            let owner = usize::from(self.owner(reply.group));
            parts[owner].get_or_insert_default().replies.push(reply);
        }
        for notice in batch.hibernate {
            let owner = usize::from(self.owner(notice.group));
            parts[owner].get_or_insert_default().hibernate.push(notice);
        }
        for (core, part) in (0..).zip(parts) {
            let Some(batch) = part else {
                continue;
            };
            if core == self.id {
                self.on_peer_batch(node, *batch);
            } else if let Err(Message::FromPeer { batch, .. }) =
                self.post(core, Message::FromPeer { node, batch })
            {
                // Raft lives with losses; a request or an answer that is lost here would leave its asker in the dark.
                let rest = Box::new(Batch {
                    raft: Vec::new(),
                    ..*batch
                });
                if !rest.requests.is_empty() || !rest.replies.is_empty() {
                    self.post_answer(core, Message::FromPeer { node, batch: rest });
                }
            }
        }
    }

    /// Takes what a node sent to groups of this core.
    pub(super) fn on_peer_batch(self: &Rc<Self>, node: u64, batch: Batch) {
        for message in batch.raft {
            if node_of(message.from) == node {
                self.step(message.group, Input::Peer(message));
            }
        }
        for notice in batch.hibernate {
            let group = notice.group;
            self.step(group, Input::Hibernate { node, notice });
        }
        for asked in batch.requests {
            self.on_forwarded(node, asked);
        }
        for reply in batch.replies {
            let outcome = wire::decode_outcome(reply.outcome).unwrap_or_else(|error| {
                log::warn!(
                    "event=reply_not_understood node={node} error={error:?}",
                    error = error.to_string()
                );
                Outcome::Refused(Refusal::OutcomeUnknown)
            });
            let token = reply.token;
            self.step(reply.group, Input::ForwardReply { token, outcome });
        }
    }

    fn on_forwarded(self: &Rc<Self>, node: u64, asked: ForwardedRequest) {
        let (group, token) = (asked.group, asked.token);
        let since_us = self.clock.monotonic_us();
        let waiting = Waiting::OtherNode {
            node,
            group,
            token,
            since_us,
        };
        let reply_to = self.reply_to(waiting);
        let request = match wire::decode_request(asked.request) {
            Ok(request) => request,
            Err(error) => {
                log::warn!(
                    "event=request_not_understood node={node} error={error:?}",
                    error = error.to_string()
                );
                let refusal = Refusal::Bad(format!("another node does not know this: {error}"));
                return self.answer(reply_to, Outcome::Refused(refusal));
            }
        };
        match self.group_of(&request) {
            Some(own) if own == group => {
                self.give_input(group, Input::Forwarded { request, reply_to }, reply_to)
            }
            _ => self.answer(reply_to, Outcome::Refused(Refusal::Unavailable)),
        }
    }

    /// A node speaks to this one, so it can be reached: it must not wait for its answers until the next attempt is due.
    pub(super) fn on_heard(&self, node: u64) {
        self.hurry_link(node);
        for core in (0..self.cores).filter(|c| *c != self.id) {
            self.post_answer(core, Message::Speaks { node });
        }
    }

    pub(super) fn hurry_link(&self, node: u64) {
        if let Some(link) = self.links.borrow().get(&node) {
            link.hurry();
        }
    }

    /// The link to a node works, or has broken.
    pub(super) fn on_link_change(self: &Rc<Self>, node: u64, is_up: bool) {
        let ids: Vec<u32> = self.groups.borrow().keys().copied().collect();
        if is_up {
            log::info!("event=peer_connected core={} node={node}", self.id);
            self.found_groups();
        } else {
            log::warn!("event=peer_lost core={} node={node}", self.id);
            for id in ids {
                self.step(id, Input::LinkLost(node));
            }
        }
        self.ready_changed.raise();
    }

    /// Where a group has never had a leader, one node begins without waiting for the time-out: the one whose turn it
    /// is by the group's number.
    fn found_groups(self: &Rc<Self>) {
        let links = self.links.borrow();
        let reached = 1 + links.values().filter(|link| link.is_up()).count();
        drop(links);
        let is_new = |group: &crate::group::Group| {
            let voters = group.membership().voters;
            let turn = group.id() as usize % voters.len().max(1);
            group.last_index() == 0
                && group.term() == 0
                && reached > voters.len() / 2
                && voters.get(turn) == Some(&group.raft_id())
        };
        let new: Vec<u32> = self
            .groups
            .borrow()
            .iter()
            .filter(|(_, group)| is_new(group))
            .map(|(id, _)| *id)
            .collect();
        self.campaign(new);
    }

    /// A group of this core has another leader, or none.
    pub(super) fn leader_changed(self: &Rc<Self>, group: u32) {
        let (node, is_ready) = {
            let groups = self.groups.borrow();
            let Some(group) = groups.get(&group) else {
                return;
            };
            (node_of(group.leader()), group.is_ready())
        };
        add(&self.metrics.plain.leader_changes_total, 1);
        log::debug!("event=leader group={group} node={node} here={is_ready}");
        self.note_leader(group, node);
        for core in (0..self.cores).filter(|c| *c != self.id) {
            self.post_answer(core, Message::Leader { group, node });
        }
        self.ready_changed.raise();
        if group == 0 && is_ready && self.tables.borrow().slots.is_empty() {
            let core = self.clone();
            super::tasks::spawn(async move { core.assign_slots().await }).detach();
        }
    }

    pub(super) fn note_leader(&self, group: u32, node: u64) {
        let mut leaders = self.leaders.borrow_mut();
        let place = group as usize;
        if leaders.len() <= place {
            leaders.resize(place + 1, 0);
        }
        leaders[place] = node;
    }

    pub(super) fn trouble(self: &Rc<Self>, group: u32, bad: BadMessage) {
        let level = match bad {
            BadMessage::LogLost | BadMessage::Diverged => log::Level::Error,
            // A replica that was replaced is written to until its group knows.
            BadMessage::Kind
            | BadMessage::NotForUs
            | BadMessage::Unsigned
            | BadMessage::Entries => log::Level::Debug,
        };
        log::log!(
            level,
            "event=replica_refuses group={group} core={} {bad}",
            self.id
        );
        if matches!(bad, BadMessage::LogLost | BadMessage::Diverged) {
            self.found_lost_log(group, bad);
        }
    }
}
