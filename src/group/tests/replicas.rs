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
    /// Replies of node and number; forwarded questions have numbers above [`FORWARDED`].
    answers: BTreeMap<(u64, u64), Outcome>,
    forwarded: BTreeMap<(u64, u64), (u64, u64)>,
    asked: u64,
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
                _ => {}
            }
        }
    }

    /// Delivers and syncs until nothing is under way.
    fn settle(&mut self) {
        loop {
            if let Some((node, number)) = self.unsynced.pop_front() {
                self.step(node, Input::Persisted(number));
            } else if let Some((from, to, sent)) = self.network.pop_front() {
                if self.cut.contains(&from) || self.cut.contains(&to) {
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
        for node in 1..=3 {
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
