//! Three replicas and a network in memory: who leads, what is answered where, and what a cut changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raftproto::peer::RaftMessage;

use super::*;

/// Ticks within which a leader is found.
const TICKS: usize = 40;

struct Cluster {
    groups: Vec<Group>,
    now_us: u64,
    /// Messages on their way, and forwarded questions: from, to, what.
    network: VecDeque<(u64, u64, Sent)>,
    /// Nodes that nobody hears or reaches.
    cut: BTreeSet<u64>,
    unsynced: VecDeque<(u64, u64)>,
    /// Syncs nothing.
    slow_disk: Option<u64>,
    /// Hears nothing.
    deaf: Option<u64>,
    /// Each node's newest checkpoint.
    checkpoints: BTreeMap<u64, (CheckpointPlan, BTreeMap<StreamKey, Vec<u8>>)>,
    /// Replies of node and number; forwarded questions have numbers above [`FORWARDED`].
    answers: BTreeMap<(u64, u64), Outcome>,
    forwarded: BTreeMap<(u64, u64), (u64, u64)>,
    asked: u64,
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

enum Sent {
    Raft(RaftMessage),
    Ask(u64, Request),
    Reply(u64, Outcome),
}

const FORWARDED: u64 = 1 << 32;

impl Cluster {
    fn new() -> Cluster {
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
            unsynced: VecDeque::new(),
            slow_disk: None,
            deaf: None,
            checkpoints: BTreeMap::new(),
            answers: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            asked: 0,
        }
    }

    fn group(&mut self, node: u64) -> &mut Group {
        &mut self.groups[node as usize - 1]
    }

    fn step(&mut self, node: u64, input: Input) {
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

    fn checkpoint(&mut self, node: u64) {
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

    fn fetched(&self, from: u64) -> Fetched {
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
    fn settle(&mut self) {
        loop {
            let is_next = |(node, _): &(u64, u64)| Some(*node) != self.slow_disk;
            let next = self.unsynced.iter().position(is_next);
            if let Some((node, number)) = next.and_then(|next| self.unsynced.remove(next)) {
                self.step(node, Input::Persisted(number));
            } else if let Some((from, to, sent)) = self.network.pop_front() {
                if self.cut.contains(&from) || self.cut.contains(&to) || self.deaf == Some(to) {
                    continue;
                }
                match sent {
                    Sent::Raft(message) => self.step(to, Input::Peer(message)),
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
                return;
            }
        }
    }

    fn tick(&mut self) {
        self.now_us += 50_000;
        for node in 1..=self.groups.len() as u64 {
            self.step(node, Input::RaftTick);
        }
        self.settle();
    }

    /// Lets time pass until one of these nodes leads.
    fn elect(&mut self, nodes: &[u64]) -> u64 {
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

    fn send(&mut self, node: u64, name: &str, op: Op) -> (u64, u64) {
        self.asked += 1;
        let reply_to = ReplyTo(self.asked);
        let request = Request::on_key(key(name), op);
        self.step(node, Input::Request { request, reply_to });
        self.settle();
        (node, reply_to.0)
    }

    fn ask(&mut self, node: u64, name: &str, op: Op) -> Outcome {
        let id = self.send(node, name, op);
        self.answers
            .remove(&id)
            .expect("an answer without time passing")
    }
}

fn others(leader: u64) -> (u64, u64) {
    let mut others = (1..=3).filter(|n| *n != leader);
    (others.next().unwrap(), others.next().unwrap())
}

fn tail_of(outcome: &Outcome) -> u64 {
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
fn leadership_is_handed_over_without_a_refusal() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    cluster.ask(old, "s", create(Expiry::Never));
    cluster.step(old, Input::TransferLeader(None));
    let asked = cluster.send(old, "s", append("x"));
    for _ in 0..4 {
        cluster.tick();
    }
    let outcome = cluster.answers.remove(&asked);
    assert!(
        matches!(outcome, Some(Outcome::Appended { .. })),
        "{outcome:?}"
    );
    assert!(!cluster.group(old).is_leader());
}

#[test]
fn a_replica_whose_log_was_lost_is_not_brought_down_by_its_leader() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.tick();
    let start = RaftStart {
        node_id: a,
        membership: members(&[1, 2, 3]),
        ..RaftStart::default()
    };
    *cluster.group(a) = Group::new(Machine::new(1), start, 0).unwrap();
    for _ in 0..TICKS {
        cluster.tick();
    }
    assert_eq!(cluster.group(a).trouble(), Some(BadMessage::LogLost));
    assert!(matches!(
        cluster.ask(leader, "s", append("x")),
        Outcome::Appended { .. }
    ));
}

impl Cluster {
    /// A replica that is to join: it knows of no members.
    fn add_replica(&mut self, node_id: u64) {
        assert_eq!(self.groups.len() as u64 + 1, node_id);
        let start = RaftStart {
            node_id,
            ..RaftStart::default()
        };
        self.groups
            .push(Group::new(Machine::new(1), start, 0).unwrap());
    }

    /// Ticks and reconciles until the members are these.
    fn reach(&mut self, wanted: &[u64]) {
        for _ in 0..10 * TICKS {
            let is_done = |g: &Group| {
                let m = g.membership();
                let mut voters = m.voters.clone();
                voters.sort_unstable();
                voters == wanted && m.voters_outgoing.is_empty() && m.learners.is_empty()
            };
            let leader = self.groups.iter().find(|g| g.is_ready() && is_done(g));
            if leader.is_some_and(|g| wanted.contains(&g.raft_id())) {
                return;
            }
            for node in 1..=self.groups.len() as u64 {
                self.step(node, Input::Reconcile(wanted.to_vec()));
            }
            self.tick();
        }
        panic!("the members are not {wanted:?}");
    }
}

#[test]
fn members_come_and_go_under_way() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    cluster.ask(leader, "s", create(Expiry::Never));
    for _ in 0..300 {
        cluster.ask(leader, "s", append("x"));
    }
    cluster.add_replica(4);
    cluster.add_replica(5);
    cluster.reach(&[1, 2, 3, 4, 5]);
    cluster.reach(&[2, 3, 4]);
    let leader = cluster.elect(&[2, 3, 4]);
    assert_eq!(tail_of(&cluster.ask(leader, "s", Op::Head)), 300);
    // The one that left and is down holds nobody up.
    cluster.cut.insert(1);
    cluster.cut.insert(5);
    cluster.reach(&[2, 3]);
    let leader = cluster.elect(&[2, 3]);
    assert!(matches!(
        cluster.ask(leader, "s", append("x")),
        Outcome::Appended { .. }
    ));
}

#[test]
fn late_words_of_a_former_term_are_no_contradiction() {
    use ::raft::prelude::MessageType as T;
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.cut.insert(old);
    let new = cluster.elect(&[a, b]);
    cluster.ask(new, "s", create(Expiry::Never));
    cluster.tick();
    let other = if new == a { b } else { a };
    let term = cluster.group(new).term() - 1;
    let late = |to, kind: T, index| RaftMessage {
        group: 1,
        r#type: kind as u32,
        to,
        from: old,
        term,
        index,
        log_term: term,
        commit: 100,
        ..RaftMessage::default()
    };
    let mut append = late(other, T::MsgAppend, 1);
    append.entries = vec![raftproto::peer::LogEntry {
        index: 2,
        term,
        ..Default::default()
    }];
    cluster.step(other, Input::Peer(append));
    cluster.step(other, Input::Peer(late(other, T::MsgHeartbeat, 0)));
    cluster.step(new, Input::Peer(late(new, T::MsgAppendResponse, 100)));
    // A follower has no use for a word to the leader that it was.
    cluster.step(
        other,
        Input::Peer(RaftMessage {
            term: term + 1,
            ..late(other, T::MsgAppendResponse, 100)
        }),
    );
    assert_eq!(cluster.group(new).trouble(), None);
    assert_eq!(cluster.group(other).trouble(), None);
}

#[test]
fn a_leader_with_a_slow_disk_answers_no_older_than_its_followers() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    // A first read makes the lease.
    cluster.ask(leader, "s", Op::Head);
    cluster.slow_disk = Some(leader);
    let written = cluster.send(leader, "s", append("xy"));
    let asked = cluster.send(leader, "s", Op::Head);
    let confirmed = cluster.send(a, "s", Op::Head);
    for id in [written, asked, confirmed] {
        assert!(!cluster.answers.contains_key(&id));
    }
    cluster.slow_disk = None;
    cluster.settle();
    for id in [asked, confirmed] {
        assert_eq!(tail_of(&cluster.answers[&id]), 2);
    }
}

#[test]
fn a_late_answer_to_an_earlier_process_is_no_answer_to_this_one() {
    let mut cluster = Cluster::new();
    let leader = cluster.elect(&[1, 2, 3]);
    let (a, _) = others(leader);
    cluster.ask(leader, "s", create(Expiry::Never));
    cluster.slow_disk = Some(a);
    let ask = |cluster: &mut Cluster| {
        cluster.cut.insert(leader);
        cluster.step(
            a,
            Input::Request {
                request: Request::on_key(key("s"), append("x")),
                reply_to: ReplyTo(77),
            },
        );
        let tokens = cluster.network.drain(..).find_map(|(_, _, sent)| match sent {
            Sent::Ask(token, _) => Some(token),
            _ => None,
        });
        cluster.cut.clear();
        tokens.expect("the leader is asked")
    };
    let before = ask(&mut cluster);
    let start = RaftStart {
        node_id: a,
        membership: members(&[1, 2, 3]),
        settings: RaftSettings {
            seed: 8,
            ..RaftSettings::default()
        },
        ..RaftStart::default()
    };
    *cluster.group(a) = Group::new(Machine::new(1), start, 0).unwrap();
    cluster.unsynced.clear();
    cluster.slow_disk = None;
    cluster.step(a, Input::Peer(heartbeat(leader, a)));
    let after = ask(&mut cluster);
    assert!(before.abs_diff(after) > 1 << 20, "{before} {after}");
}

fn heartbeat(from: u64, to: u64) -> RaftMessage {
    RaftMessage {
        group: 1,
        r#type: ::raft::prelude::MessageType::MsgHeartbeat as u32,
        to,
        from,
        term: 1,
        ..RaftMessage::default()
    }
}

#[test]
fn what_a_checkpoint_may_hold_is_not_said_to_be_undone() {
    let mut cluster = Cluster::new();
    let old = cluster.elect(&[1, 2, 3]);
    let (a, b) = others(old);
    cluster.ask(old, "s", create(Expiry::Never));
    // The others get the entry and the leader hears nothing any more.
    cluster.deaf = Some(old);
    let written = cluster.send(old, "s", append("x"));
    cluster.cut.insert(old);
    let new = cluster.elect(&[a, b]);
    assert_eq!(tail_of(&cluster.ask(new, "s", Op::Head)), 1);
    cluster.checkpoint(new);
    let fetched = cluster.fetched(new);
    let (position, term) = (fetched.position, cluster.group(new).term());
    let offer = RaftMessage {
        group: 1,
        r#type: ::raft::prelude::MessageType::MsgSnapshot as u32,
        to: old,
        from: new,
        term,
        checkpoint: Some(raftproto::peer::CheckpointInfo {
            index: position.index,
            term: position.term,
            membership: Some(fetched.membership),
        }),
        ..RaftMessage::default()
    };
    cluster.step(old, Input::Peer(offer));
    cluster.settle();
    assert_eq!(cluster.group(old).applied(), position);
    let outcome = cluster.answers.remove(&written);
    assert!(
        matches!(outcome, Some(Outcome::Refused(Refusal::OutcomeUnknown))),
        "{outcome:?}"
    );
}
