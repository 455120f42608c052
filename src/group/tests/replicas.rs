//! Three replicas and a network in memory: who leads, what is answered where, and what a cut changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ::raft::prelude::MessageType;
use raftproto::peer::RaftMessage;

use super::*;

/// Ticks within which a leader is found.
pub(super) const TICKS: usize = 40;

pub(super) struct Cluster {
    pub(super) groups: Vec<Group>,
    pub(super) now_us: u64,
    /// Messages on their way, and forwarded questions: from, to, what.
    pub(super) network: VecDeque<(u64, u64, Sent)>,
    /// Nodes that nobody hears or reaches.
    pub(super) cut: BTreeSet<u64>,
    /// Its syncs take for ever.
    pub(super) slow_disk: Option<u64>,
    /// Hears nothing.
    pub(super) deaf: Option<u64>,
    /// Raft's messages that a cut took away.
    pub(super) held: Vec<RaftMessage>,
    pub(super) unsynced: VecDeque<(u64, u64)>,
    /// Each node's newest checkpoint.
    pub(super) checkpoints: BTreeMap<u64, (CheckpointPlan, BTreeMap<StreamKey, Vec<u8>>)>,
    /// Replies of node and number; forwarded questions have numbers above [`FORWARDED`].
    pub(super) answers: BTreeMap<(u64, u64), Outcome>,
    pub(super) forwarded: BTreeMap<(u64, u64), (u64, u64)>,
    pub(super) asked: u64,
}

/// Places chunks in a pack that nobody reads.
struct NoPack;

impl PlaceChunk for NoPack {
    fn place(
        &mut self,
        _key: &StreamKey,
        _incarnation: crate::protocol::Incarnation,
        start: u64,
        pieces: Vec<Bytes>,
    ) -> crate::protocol::ChunkRef {
        crate::protocol::ChunkRef {
            pack: 1,
            position: 0,
            start,
            length: pieces.iter().map(Bytes::len).sum::<usize>() as u32,
            crc32c: 0,
        }
    }
}

pub(super) enum Sent {
    Raft(RaftMessage),
    Ask(u64, Request),
    Sleep(raftproto::peer::HibernateGroup),
    Reply(u64, Outcome),
}

const FORWARDED: u64 = 1 << 32;

impl Cluster {
    pub(super) fn new() -> Cluster {
        let groups = (1..=3).map(|node_id| {
            let start = RaftStart {
                node_id,
                membership: members(&[1, 2, 3]),
                settings: RaftSettings {
                    seed: 7,
                    ..RaftSettings::default()
                },
                ..RaftStart::default()
            };
            Group::new(Machine::new(1), start, 0).unwrap()
        });
        Cluster {
            groups: groups.collect(),
            now_us: 1_000_000,
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            slow_disk: None,
            deaf: None,
            held: Vec::new(),
            unsynced: VecDeque::new(),
            checkpoints: BTreeMap::new(),
            answers: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            asked: 0,
        }
    }

    pub(super) fn group(&mut self, node: u64) -> &mut Group {
        &mut self.groups[node as usize - 1]
    }

    pub(super) fn step(&mut self, node: u64, input: Input) {
        let now = Now {
            wall_ms: self.now_us / 1000,
            monotonic_us: self.now_us,
        };
        let mut effects = Vec::new();
        self.group(node).step(now, input, &mut effects);
        if self.group(node).has_pending() {
            self.group(node).step(now, Input::Flush, &mut effects);
        }
        for effect in effects {
            match effect {
                Effect::Persist(persist) => self.unsynced.push_back((node, persist.number)),
                Effect::Hibernate { node: to, notice } => {
                    self.network.push_back((node, to, Sent::Sleep(notice)));
                }
                Effect::Send(m) => self.network.push_back((node, m.to, Sent::Raft(m))),
                Effect::Forward {
                    node: to,
                    token,
                    request,
                } => self
                    .network
                    .push_back((node, to, Sent::Ask(token, request))),
                Effect::Reply { reply_to, outcome } if reply_to.0 >= FORWARDED => {
                    let (to, token) = self.forwarded.remove(&(node, reply_to.0)).unwrap();
                    self.network
                        .push_back((node, to, Sent::Reply(token, outcome)));
                }
                Effect::Reply { reply_to, outcome } => {
                    let before = self.answers.insert((node, reply_to.0), outcome);
                    assert!(before.is_none(), "answered twice");
                }
                Effect::Install(persist) => self.unsynced.push_back((node, persist.number)),
                Effect::CheckpointWanted => self.checkpoint(node),
                Effect::FetchCheckpoint { node: from, .. } => {
                    let fetched = self.fetched(from);
                    self.step(node, Input::Fetched(Box::new(fetched)));
                }
                _ => {}
            }
        }
    }

    pub(super) fn checkpoint(&mut self, node: u64) {
        let plan = self.group(node).checkpoint(&mut NoPack);
        let (position, membership) = (plan.position, plan.membership.clone());
        let mut streams = self
            .checkpoints
            .remove(&node)
            .map_or_else(BTreeMap::new, |c| c.1);
        for (key, value) in &plan.delta {
            match value {
                Some(value) => {
                    let older = streams.get(key).map(Vec::as_slice);
                    let value = combine_stream_states(older, value);
                    streams.insert(key.clone(), value);
                }
                None => {
                    streams.remove(key);
                }
            }
        }
        self.group(node)
            .checkpointed(1, position, &membership, u64::MAX);
        self.checkpoints.insert(node, (plan, streams));
    }

    pub(super) fn fetched(&self, from: u64) -> Fetched {
        let (plan, streams) = &self.checkpoints[&from];
        let streams = streams.iter().map(|(k, v)| (k.clone(), v.clone()));
        Fetched {
            machine: Machine::load(1, &plan.group_state, streams).unwrap(),
            position: plan.position,
            membership: plan.membership.clone(),
            durable_pack: 1,
        }
    }

    /// Delivers and syncs until nothing is under way.
    pub(super) fn settle(&mut self) {
        while self.settle_one() {}
    }

    /// Carries one message, or ends one sync; answers whether there was one.
    pub(super) fn settle_one(&mut self) -> bool {
        let is_fast = |(node, _): &(u64, u64)| self.slow_disk != Some(*node);
        let synced = self.unsynced.iter().position(is_fast);
        let synced = synced.and_then(|place| self.unsynced.remove(place));
        if let Some((node, number)) = synced {
            self.step(node, Input::Persisted(number));
        } else if let Some((from, to, sent)) = self.network.pop_front() {
            if self.cut.contains(&from) || self.cut.contains(&to) || self.deaf == Some(to) {
                if let Sent::Raft(message) = sent {
                    self.held.push(message);
                }
                return true;
            }
            match sent {
                Sent::Raft(message) => self.step(to, Input::Peer(message)),
                Sent::Sleep(notice) => {
                    self.step(to, Input::Hibernate { node: from, notice });
                }
                Sent::Reply(token, outcome) => {
                    self.step(to, Input::ForwardReply { token, outcome });
                }
                Sent::Ask(token, request) => {
                    self.asked += 1;
                    let reply_to = ReplyTo(FORWARDED + self.asked);
                    self.forwarded.insert((to, reply_to.0), (from, token));
                    self.step(to, Input::Forwarded { request, reply_to });
                }
            }
        } else {
            return false;
        }
        true
    }

    pub(super) fn tick(&mut self) {
        self.now_us += 50_000;
        for node in 1..=self.groups.len() as u64 {
            self.step(node, Input::RaftTick);
        }
        self.settle();
    }

    /// A node comes back without its log, and the leader tells it what it does not have.
    pub(super) fn lose_log(&mut self, node: u64) {
        let start = RaftStart {
            node_id: node,
            membership: members(&[1, 2, 3]),
            ..RaftStart::default()
        };
        *self.group(node) = Group::new(Machine::new(1), start, 0).unwrap();
        for _ in 0..TICKS {
            self.tick();
        }
    }

    /// Lets time pass until one of these nodes leads.
    pub(super) fn elect(&mut self, nodes: &[u64]) -> u64 {
        for _ in 0..TICKS {
            self.tick();
            let leader = nodes
                .iter()
                .find(|n| self.groups[**n as usize - 1].is_ready());
            if let Some(leader) = leader {
                return *leader;
            }
        }
        panic!("nobody leads");
    }

    pub(super) fn send(&mut self, node: u64, name: &str, op: Op) -> (u64, u64) {
        self.asked += 1;
        let reply_to = ReplyTo(self.asked);
        let request = Request::on_key(key(name), op);
        self.step(node, Input::Request { request, reply_to });
        self.settle();
        (node, reply_to.0)
    }

    pub(super) fn ask(&mut self, node: u64, name: &str, op: Op) -> Outcome {
        let id = self.send(node, name, op);
        self.answers
            .remove(&id)
            .expect("an answer without time passing")
    }
}

pub(super) fn others(leader: u64) -> (u64, u64) {
    let mut others = (1..=3).filter(|n| *n != leader);
    (others.next().unwrap(), others.next().unwrap())
}

pub(super) fn tail_of(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Head(meta) => meta.tail.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_node_answers_and_all_have_the_same_state() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(leader);
    assert!(matches!(cluster.ask(a, "s", create(Expiry::Never)), Outcome::Created(c) if c.fresh));
    for node in [leader, a, b] {
        let outcome = cluster.ask(node, "s", append("x"));
        assert!(matches!(outcome, Outcome::Appended { .. }), "{outcome:?}");
    }
    for node in [leader, a, b] {
        assert_eq!(tail_of(&cluster.ask(node, "s", Op::Head)), 3);
        let outcome = cluster.ask(node, "s", read());
        assert!(matches!(outcome, Outcome::Read(plan) if plan.end.0 == 3));
        let outcome = cluster.ask(node, "none", Op::Head);
        assert!(matches!(outcome, Outcome::Refused(Refusal::NotFound)));
    }
    cluster.tick();
    cluster.tick();
    let hashes: BTreeSet<u64> = cluster.groups.iter().map(Group::state_hash).collect();
    assert_eq!(hashes.len(), 1);
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_and_the_others_go_on() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.ask(old, "s", append("x"));
    cluster.cut.insert(old);
    let written = cluster.send(old, "s", append("lost"));
    let new = cluster.elect(&[a, b]);
    assert!(
        matches!(cluster.ask(new, "s", append("yz")), Outcome::Appended { tail, .. } if tail.0 == 3)
    );
    let stale = cluster.send(old, "s", Op::Head);
    assert!(!cluster.answers.contains_key(&written) && !cluster.answers.contains_key(&stale));
    cluster.cut.clear();
    for _ in 0..TICKS {
        cluster.tick();
    }
    let outcome = cluster.answers.remove(&written);
    assert!(
        matches!(outcome, Some(Outcome::Refused(Refusal::Unavailable))),
        "{outcome:?}"
    );
    let outcome = cluster
        .answers
        .remove(&stale)
        .expect("an answer after the cut");
    assert_eq!(tail_of(&outcome), 3);
}

#[test]
fn a_lease_does_not_hide_what_the_others_committed_before_the_leaders_own_disk() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    // A read that begins the lease.
    cluster.ask(leader, "s", Op::Head);
    cluster.slow_disk = Some(leader);
    cluster.send(leader, "s", append("x"));
    // The followers have applied it, and one of them says so to a live reader.
    let live = Op::Read(Read {
        from: ReadFrom::Start,
        bytes_max: 100,
        is_live: true,
    });
    for _ in 0..2 {
        cluster.tick();
    }
    let shown = cluster.ask(a, "s", live);
    assert!(matches!(shown, Outcome::Read(plan) if plan.end.0 == 1));
    let asked = cluster.send(leader, "s", Op::Head);
    assert!(
        !cluster.answers.contains_key(&asked),
        "an answer from before"
    );
    cluster.slow_disk = None;
    cluster.settle();
    let outcome = cluster.answers.remove(&asked).unwrap();
    assert_eq!(tail_of(&outcome), 1);
}

#[test]
fn a_replica_whose_log_was_lost_is_not_brought_down_by_its_leader() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.tick();
    cluster.lose_log(a);
    assert_eq!(cluster.group(a).trouble(), Some(BadMessage::LogLost));
    // The one without its log sends on what it can, and refuses the rest at once.
    for node in [leader, a] {
        assert!(matches!(
            cluster.ask(node, "s", append("x")),
            Outcome::Appended { .. }
        ));
    }
    let asked = cluster.send(a, "s", Op::Head);
    assert!(matches!(
        cluster.answers.remove(&asked),
        Some(Outcome::Refused(Refusal::Unavailable))
    ));
}

#[test]
fn a_message_without_a_term_or_a_sender_does_not_reach_raft() {
    // raft-rs takes term 0 for its own word, and ends the process where it would have to answer a vote in it.
    let mut fresh = Group::new(
        Machine::new(1),
        RaftStart {
            node_id: 1,
            membership: members(&[1, 2, 3]),
            ..RaftStart::default()
        },
        0,
    )
    .unwrap();
    let kinds = [
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVote,
        MessageType::MsgHeartbeat,
        MessageType::MsgAppend,
    ];
    for (kind, (from, term)) in kinds.into_iter().flat_map(|k| [(k, (2, 0)), (k, (0, 1))]) {
        let message = RaftMessage {
            group: 1,
            r#type: kind as u32,
            to: 1,
            from,
            term,
            ..RaftMessage::default()
        };
        let mut effects = Vec::new();
        fresh.step(Now::default(), Input::Peer(message), &mut effects);
        assert_eq!(effects.len(), 1, "{effects:?}");
        assert!(matches!(effects[0], Effect::Trouble(BadMessage::Unsigned)));
    }
}

#[test]
fn an_append_after_an_entry_of_no_term_is_refused() {
    let start = RaftStart {
        node_id: 1,
        membership: members(&[1, 2, 3]),
        ..RaftStart::default()
    };
    let mut fresh = Group::new(Machine::new(1), start, 0).unwrap();
    let message = RaftMessage {
        group: 1,
        r#type: MessageType::MsgAppend as u32,
        to: 1,
        from: 2,
        term: 77,
        index: 24,
        commit: 1,
        ..RaftMessage::default()
    };
    let mut effects = Vec::new();
    fresh.step(Now::default(), Input::Peer(message), &mut effects);
    assert!(
        matches!(effects[..], [Effect::Trouble(BadMessage::Entries)]),
        "{effects:?}"
    );
    assert_eq!(fresh.commit(), 0);
}

#[test]
fn what_a_deposed_leader_sent_long_ago_is_no_sign_of_trouble() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    // An entry of the old term that nobody else gets until it is over.
    cluster.cut.insert(old);
    cluster.held.clear();
    cluster.send(old, "s", append("lost"));
    let late: Vec<RaftMessage> = std::mem::take(&mut cluster.held);
    assert!(late.iter().any(|m| !m.entries.is_empty()));
    let new = cluster.elect(&[a, b]);
    cluster.ask(new, "s", append("kept"));
    for _ in 0..4 {
        cluster.tick();
    }
    for message in late {
        cluster.step(message.to, Input::Peer(message));
    }
    assert_eq!(cluster.group(a).trouble(), None);
    assert_eq!(cluster.group(b).trouble(), None);
}
