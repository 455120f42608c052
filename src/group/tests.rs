//! A group with one voter, stepped by hand: what a client is told, what the log holds, what replicas agree on.

mod again;
mod answers;
mod asleep;
mod checkpoint;
mod cold;
mod expiry;
mod found;
mod hand_over;
mod holds;
mod level;
mod linear;
mod long;
mod members;
mod replicas;
mod retention;
mod standstill;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use raftproto::checkpoint::Membership;

use super::machine::decode_batch;
use super::*;
use crate::protocol::{Append, ContentType, Create, Expiry, Incarnation, Read, ReadFrom};

/// One group, its clock and its disk.
struct World {
    group: Group,
    now_ms: u64,
    answers: BTreeMap<u64, Outcome>,
    asked: u64,
    unsynced: VecDeque<u64>,
    /// Payloads in log order.
    log: Vec<Bytes>,
    /// What is neither an answer nor for the disk.
    others: Vec<Effect>,
}

impl World {
    /// A group that leads, at `now_ms`.
    fn of(group: u32, now_ms: u64) -> World {
        World::with(group, now_ms, RaftSettings::default())
    }

    fn with(group: u32, now_ms: u64, settings: RaftSettings) -> World {
        let start = RaftStart {
            node_id: 1,
            membership: members(&[1]),
            settings,
            ..RaftStart::default()
        };
        let mut world = World {
            group: Group::new(Machine::new(group), start, 0).unwrap(),
            now_ms,
            answers: BTreeMap::new(),
            asked: 0,
            unsynced: VecDeque::new(),
            log: Vec::new(),
            others: Vec::new(),
        };
        let mut effects = Vec::new();
        world.group.campaign(world.now(), &mut effects).unwrap();
        world.take(effects);
        world.settle();
        assert!(world.group.is_ready());
        world.others.clear();
        world
    }

    fn now(&self) -> Now {
        Now {
            wall_ms: self.now_ms,
            monotonic_us: self.now_ms * 1000,
        }
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.group.step(self.now(), input, &mut effects);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(persist) => {
                    self.unsynced.push_back(persist.number);
                    self.log
                        .extend(persist.entries.into_iter().map(|e| e.payload));
                }
                Effect::Reply { reply_to, outcome } => {
                    let before = self.answers.insert(reply_to.0, outcome);
                    assert!(before.is_none(), "answered twice");
                }
                other => self.others.push(other),
            }
        }
    }

    /// Asks and does not wait.
    fn send(&mut self, target: GroupTarget, op: Op) -> u64 {
        self.asked += 1;
        let reply_to = ReplyTo(self.asked);
        let request = Request { target, op };
        self.step(Input::Request { request, reply_to });
        self.asked
    }

    /// Proposes what has gathered.
    fn flush(&mut self) {
        self.step(Input::Flush);
    }

    /// Proposes and syncs until nothing is left to do.
    fn settle(&mut self) {
        loop {
            while self.group.has_pending() {
                self.flush();
            }
            let Some(number) = self.unsynced.pop_front() else {
                return;
            };
            self.step(Input::Persisted(number));
        }
    }

    fn tick(&mut self) {
        self.step(Input::Tick);
    }

    /// Asks and waits.
    fn ask(&mut self, name: &str, op: Op) -> Outcome {
        let id = self.send(GroupTarget::Key(key(name)), op);
        self.settle();
        self.answers.remove(&id).unwrap()
    }

    fn answer(&mut self, id: u64) -> Outcome {
        self.answers.remove(&id).unwrap()
    }

    fn create(&mut self, name: &str, expiry: Expiry) {
        let outcome = self.ask(name, create(expiry));
        assert!(matches!(outcome, Outcome::Created(c) if c.fresh), "{name}");
    }

    /// What a replica has that applied the same log.
    fn replica(&self) -> Machine {
        let mut machine = Machine::new(self.group.id());
        let mut effects = Vec::new();
        for payload in self.log.iter().filter(|p| !p.is_empty()) {
            let batch = decode_batch(payload, raftproto::version::COMMANDS).unwrap();
            for command in batch.commands {
                machine.apply(batch.version, batch.stamp_ms, command, &mut effects);
            }
        }
        machine
    }
}

fn members(voters: &[u64]) -> Membership {
    Membership {
        voters: voters.to_vec(),
        ..Membership::default()
    }
}

fn key(name: &str) -> StreamKey {
    StreamKey::root(name).unwrap()
}

fn create(expiry: Expiry) -> Op {
    Op::Create(Create {
        content_type: ContentType::from_stored("text/plain"),
        expiry,
        closed: false,
        body: Bytes::new(),
        bucket_generation: 0,
        retention: crate::protocol::Retention::default(),
        is_bucket_retention: false,
        fork: None,
    })
}

fn append(text: &'static str) -> Op {
    Op::Append(Append {
        content_type: Some(ContentType::from_stored("text/plain")),
        body: Bytes::from_static(text.as_bytes()),
        close: false,
        stream_seq: None,
        producer: None,
        incarnation_below: None,
    })
}

fn read() -> Op {
    Op::Read(Read {
        from: ReadFrom::Start,
        bytes_max: 1 << 20,
        is_live: false,
    })
}

fn tail_of(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Appended { tail, .. } => Some(tail.0),
        Outcome::Head(meta) => Some(meta.tail.0),
        _ => None,
    }
}

#[test]
fn a_group_has_a_bounded_number_of_streams() {
    let mut world = World::of(1, 0);
    world.group.machine.streams_max = 2;
    world.create("a", Expiry::Never);
    world.create("b", Expiry::Never);
    let refused = world.ask("c", create(Expiry::Never));
    assert!(matches!(
        refused,
        Outcome::Refused(Refusal::LimitReached { .. })
    ));
    let stands = world.ask("a", create(Expiry::Never));
    assert!(matches!(stands, Outcome::Created(c) if !c.fresh));
    world.ask("b", Op::Delete);
    world.create("c", Expiry::Never);
}

#[test]
fn while_the_log_stands_still_who_waits_is_answered_and_what_was_proposed_is_done_once() {
    let mut world = World::of(1, 0);
    world.create("a", Expiry::Never);
    let target = || GroupTarget::Key(key("a"));
    let proposed = world.send(target(), append("x"));
    world.flush();
    // There is no room: it is not synced, and these are not proposed.
    let gathered = [append("y"), Op::Delete].map(|op| world.send(target(), op));
    world.step(Input::GiveUpLate);
    for id in gathered {
        let outcome = world.answer(id);
        let bound = Outcome::Refused(Refusal::Overloaded {
            bound: "disk_space",
        });
        assert_eq!(format!("{outcome:?}"), format!("{bound:?}"));
    }
    assert!(!world.answers.contains_key(&proposed), "not so soon");
    world.now_ms += PROPOSED_PATIENCE_US / 1000;
    world.step(Input::GiveUpLate);
    assert!(matches!(
        world.answer(proposed),
        Outcome::Refused(Refusal::OutcomeUnknown)
    ));
    world.step(Input::GiveUpLate);
    assert!(world.answers.is_empty());
    // There is room.
    world.settle();
    assert!(world.answers.is_empty(), "answered twice");
    assert_eq!(tail_of(&world.ask("a", Op::Head)), Some(1));
    assert_eq!(world.group.uncommitted_bytes, 0);
}

#[test]
fn the_end_of_a_stream_leaves_no_watcher_behind() {
    let mut world = World::of(1, 0);
    for end_by_time in [false, true] {
        world.create("a", Expiry::Ttl(10));
        assert!(matches!(
            world.ask("a", Op::Watch { core: 3 }),
            Outcome::Watched(_)
        ));
        world.others.clear();
        if end_by_time {
            // Nobody ticks, so nothing keeps it alive.
            world.now_ms += 20_000;
            world.ask("a", append("late"));
        } else {
            world.ask("a", Op::Delete);
        }
        assert!(matches!(&world.others[..], [Effect::Tail { news, .. }] if news.ended));
        assert_eq!(world.group.machine.tails.keys().count(), 0);
    }
}
