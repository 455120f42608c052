//! What spans two groups, as a node's shell carries it out (`core/saga.rs`, `core/fork.rs`, `core/materialize.rs`): forks,
//! holds that are looked into, deliveries, and reads of inherited bytes. Tasks end with their process.

use std::collections::VecDeque;

use ursula::group::{Effect, Input, request_of};
use ursula::protocol::{
    Create, ForkOrigin, GroupTarget, Held, Hold, Incarnation, Offset, Op as Asked, Outcome, Piece,
    Refusal, Request, StreamKey,
};

use crate::client::group_of;
use crate::event::Event;
use crate::history::{Op, What};
use crate::mend::Wanted;
use crate::node::Waiting;
use crate::world::World;

/// Pause before a refused step is tried again.
const RETRY_US: u64 = 200_000;

/// A fork stalls between its two steps in so many of a million cases, for so long.
const STALL: u64 = 10_000;
const STALL_US: (u64, u64) = (25_000_000, 45_000_000);

/// What waits for the answer to a request of the node's own.
pub enum Task {
    /// A command for another group, then the word that it is done.
    Deliver(Delivery),
    /// Whether a fork stands.
    Check(StreamKey, Incarnation, u64),
    /// A fork that a client wants.
    Fork(Box<Forking>),
    /// A read with inherited bytes.
    Read(Box<Reading>),
    /// A look for a copy.
    Copy(Box<Wanted>),
    /// Nothing follows.
    Last,
}

/// See [`Task::Deliver`].
pub struct Delivery {
    group: u32,
    outbox_id: u64,
    request: Request,
    is_delivered: bool,
}

/// See [`Task::Fork`].
pub struct Forking {
    /// The client's operation.
    pub op: Op,
    source: StreamKey,
    hold_id: u64,
    held: Option<Held>,
    /// What is asked when it goes on.
    stalled: Option<Request>,
}

/// See [`Task::Read`].
pub struct Reading {
    /// The client's operation.
    pub op: Op,
    outcome: Outcome,
    bytes: Vec<u8>,
    /// When its pieces were planned last.
    pub planned_us: u64,
    /// Nobody had applied more of the log then.
    pub was_newest: bool,
    /// Each with the index of its group's checkpoint when it was planned.
    rest: VecDeque<(Piece, u64)>,
    lead: u32,
}

impl Reading {
    /// Takes the next piece, if it is wanted.
    pub fn next_if(&mut self, is_wanted: impl Fn(&Piece) -> bool) -> Option<Piece> {
        let (next, _) = self.rest.front()?;
        if !is_wanted(next) {
            return None;
        }
        self.rest.pop_front().map(|(piece, _)| piece)
    }
}

impl World {
    /// Carries out an effect that concerns another group.
    pub fn begin_saga(&mut self, node: u64, group: u32, effect: Effect) {
        match effect {
            Effect::Deliver { outbox_id, command } => {
                if let Some(request) = request_of(&command) {
                    self.coverage.hit("release delivered");
                    let task = Task::Deliver(Delivery {
                        group,
                        outbox_id,
                        request: request.clone(),
                        is_delivered: false,
                    });
                    if self.plan.deliver_us == 0 || self.net.is_calm {
                        return self.ask_for(node, task, request);
                    }
                    let process = &mut self.node(node).process;
                    process.task_count += 1;
                    let id = process.task_count;
                    process.tasks.insert(id, task);
                    let life = self.node(node).life;
                    let at_us = self.now_us + self.rng.latency(self.plan.deliver_us);
                    self.queue.at(at_us, Event::RetryTask(life, id));
                }
            }
            Effect::CheckHold {
                source,
                incarnation,
                hold_id,
                fork_key,
            } => {
                self.coverage.hit("hold looked into");
                let request = Request::on_key(fork_key, Asked::AbandonFork { hold_id });
                self.ask_for(node, Task::Check(source, incarnation, hold_id), request);
            }
            _ => {}
        }
    }

    /// A client wants a fork.
    pub fn begin_fork(&mut self, node: u64, op: Op) {
        let What::Fork { source, offset, .. } = &op.what else {
            return;
        };
        let source = StreamKey::from_stored(source);
        let hold = Hold {
            fork_key: StreamKey::from_stored(&op.key),
            hold_id: op.id | 1 << 40,
            offset: offset.map(Offset),
            incarnation: Incarnation(0),
        };
        let request = Request::on_key(source.clone(), Asked::Hold(hold));
        let task = Forking {
            source,
            hold_id: op.id | 1 << 40,
            op,
            held: None,
            stalled: None,
        };
        self.ask_for(node, Task::Fork(Box::new(task)), request);
    }

    /// Whether the node's copy of the slot table leads to this group. A copy that leads elsewhere is a finding: slots
    /// never move.
    pub fn routes_to(&mut self, node: u64, group: u32, key: &str) -> bool {
        if key.is_empty() {
            return true;
        }
        let slot = StreamKey::from_stored(key).slot();
        let found = self.node(node).process.tables.group_of(slot);
        if found.is_some_and(|found| found != group) {
            self.find(format!(
                "node {node} takes {key} for a stream of group {found:?}"
            ));
        }
        if found.is_none() {
            self.coverage.hit("no slots yet");
        }
        found == Some(group)
    }

    /// The new leader of group 0 fills the slots' table of a new cluster.
    pub fn assign_slots(&mut self, node: u64, group: u32) {
        let process = &self.node(node).process;
        let is_ready = process.groups[&group].group.is_ready();
        if group == 0 && is_ready && process.tables.slots.is_empty() {
            let request = Request {
                target: GroupTarget::Meta,
                op: Asked::AssignSlots {
                    group_count: self.plan.groups as u32,
                    // Another one for each leader that finds the table empty.
                    history: self.plan.seed ^ (node << 48) ^ self.now_us,
                },
            };
            self.ask_for(node, Task::Last, request);
        }
    }

    /// Group 0 has other tables.
    pub fn share_tables(&mut self, node: u64) {
        let process = &mut self.node(node).process;
        if let Some(tables) = process.groups[&0].group.tables() {
            process.tables = tables;
            process.learnt.add_to(&mut process.tables);
        }
        self.node(node).share_level();
    }

    /// Asks something of the node's own.
    pub fn ask_for(&mut self, node: u64, task: Task, request: Request) {
        let me = self.node(node);
        me.process.task_count += 1;
        let id = me.process.task_count;
        me.process.tasks.insert(id, task);
        self.ask_again(node, id, request);
    }

    fn ask_again(&mut self, node: u64, id: u64, request: Request) {
        let (group, key) = match &request.target {
            GroupTarget::Key(key) => (group_of(key.as_str()), key.as_str().to_owned()),
            GroupTarget::Group(group) => (*group, String::new()),
            GroupTarget::Meta => (0, String::new()),
        };
        if !self.routes_to(node, group, &key) {
            let refused = Outcome::Refused(Refusal::Unavailable);
            return self.task_answered(node, id, refused);
        }
        let reply_to = self.node(node).reply_to(Waiting::Task(id));
        self.step(node, group, Input::Request { request, reply_to });
    }

    /// A refused step is tried again.
    pub fn retry_task(&mut self, node: u64, id: u64) {
        if let Some(Task::Deliver(delivery)) = self.node(node).process.tasks.get(&id) {
            let request = delivery.request.clone();
            self.ask_again(node, id, request);
        }
        if let Some(Task::Fork(forking)) = self.node(node).process.tasks.get_mut(&id)
            && let Some(request) = forking.stalled.take()
        {
            self.ask_again(node, id, request);
        }
    }

    /// A task's request is answered.
    pub fn task_answered(&mut self, node: u64, id: u64, outcome: Outcome) {
        let Some(task) = self.node(node).process.tasks.remove(&id) else {
            return;
        };
        match task {
            Task::Deliver(delivery) => self.on_delivered(node, id, delivery, &outcome),
            Task::Check(source, incarnation, hold_id) => {
                let Outcome::Abandoned { exists } = outcome else {
                    return;
                };
                let op = settled(exists, incarnation, hold_id);
                self.ask_for(node, Task::Last, Request::on_key(source, op));
            }
            Task::Fork(forking) => self.on_fork_answered(node, *forking, outcome),
            Task::Read(reading) => self.on_inherited(node, *reading, outcome),
            Task::Copy(wanted) => {
                if let Some(asked) = self.copies.get_mut(&*wanted) {
                    asked.answer = Some(outcome);
                }
            }
            Task::Last => {}
        }
    }

    fn on_delivered(&mut self, node: u64, id: u64, mut delivery: Delivery, outcome: &Outcome) {
        let is_undone = matches!(
            outcome,
            Outcome::Refused(
                Refusal::Unavailable | Refusal::OutcomeUnknown | Refusal::Overloaded { .. }
            )
        );
        if is_undone {
            let life = self.node(node).life;
            self.queue
                .at(self.now_us + RETRY_US, Event::RetryTask(life, id));
        } else if delivery.is_delivered {
            return;
        } else {
            delivery.is_delivered = true;
            delivery.request = Request {
                target: GroupTarget::Group(delivery.group),
                op: Asked::Settle {
                    outbox_id: delivery.outbox_id,
                },
            };
        }
        let request = delivery.request.clone();
        let tasks = &mut self.node(node).process.tasks;
        tasks.insert(id, Task::Deliver(delivery));
        if !is_undone {
            self.ask_again(node, id, request);
        }
    }

    fn on_fork_answered(&mut self, node: u64, mut forking: Forking, outcome: Outcome) {
        let (hold_id, id) = (forking.hold_id, forking.op.id);
        let What::Fork { body, .. } = &forking.op.what else {
            return;
        };
        let Some(held) = forking.held.clone() else {
            let Outcome::Held(held) = outcome else {
                return self.reply_to_client(node, id, &outcome);
            };
            self.coverage.hit("source held");
            let create = Create {
                content_type: held.source.content_type.clone(),
                expiry: held.source.expiry,
                closed: false,
                body: body.clone(),
                bucket_generation: 0,
                retention: ursula::protocol::Retention::default(),
                is_bucket_retention: false,
                fork: Some(ForkOrigin {
                    source: forking.source.clone(),
                    incarnation: held.source.incarnation,
                    offset: held.offset,
                    hold_id,
                    requested_offset: Some(held.offset),
                    requested_sub_offset: 0,
                    floor: held.floor,
                }),
            };
            let key = StreamKey::from_stored(&forking.op.key);
            forking.held = Some(held);
            let request = Request::on_key(key, Asked::Create(create));
            let is_over = self.now_us + STALL_US.1 < self.plan.chaos_us;
            if is_over && self.rng.chance(STALL) {
                // Its core stands still for so long that the sweep asks before it goes on.
                self.coverage.hit("fork stalls after its hold");
                forking.stalled = Some(request);
                let process = &mut self.node(node).process;
                process.task_count += 1;
                let task = process.task_count;
                process.tasks.insert(task, Task::Fork(Box::new(forking)));
                let life = self.node(node).life;
                let at_us = self.now_us + self.rng.range(STALL_US.0, STALL_US.1);
                return self.queue.at(at_us, Event::RetryTask(life, task));
            }
            return self.ask_for(node, Task::Fork(Box::new(forking)), request);
        };
        let stands = match &outcome {
            Outcome::Created(created) => Some(created.fresh),
            // The sweep will ask.
            Outcome::Refused(Refusal::OutcomeUnknown) => None,
            _ => Some(false),
        };
        self.reply_to_client(node, id, &outcome);
        if let Some(stands) = stands {
            self.coverage.hit(if stands {
                "fork made"
            } else {
                "hold released at once"
            });
            let op = settled(stands, held.source.incarnation, hold_id);
            self.ask_for(node, Task::Last, Request::on_key(forking.source, op));
        }
    }

    /// Fetches a plan's bytes, then answers its client.
    pub fn begin_reading(&mut self, node: u64, op: Op, outcome: Outcome) {
        let Outcome::Read(plan) = &outcome else {
            return;
        };
        let reading = Reading {
            was_newest: self.is_newest(node, op.group),
            op,
            bytes: Vec::new(),
            planned_us: self.now_us,
            rest: self.planned(node, &plan.pieces),
            lead: plan.lead.into(),
            outcome,
        };
        self.read_on(node, reading);
    }

    fn planned(&self, node: u64, pieces: &[Piece]) -> VecDeque<(Piece, u64)> {
        let checkpoints = &self.nodes[node as usize - 1].disk.checkpoints;
        let index_of = |group| checkpoints.get(group).map_or(0, |c| c.manifest.index);
        let planned = pieces.iter().map(|piece| match piece {
            Piece::Cold { group, .. } => (piece.clone(), index_of(group)),
            _ => (piece.clone(), 0),
        });
        planned.collect()
    }

    fn read_on(&mut self, node: u64, mut reading: Reading) {
        while let Some((piece, planned_at)) = reading.rest.pop_front() {
            match piece {
                Piece::Hot(hot) => reading.bytes.extend_from_slice(&hot),
                Piece::Cold {
                    chunk,
                    group,
                    from,
                    to,
                } => {
                    let checkpoints = &self.node(node).disk.checkpoints;
                    let checkpoint = checkpoints.get(&group);
                    let read = checkpoint.map(|c| c.read_chunk(&chunk, from, to));
                    let Some(Ok(Some(found))) = read else {
                        let is_hurt = checkpoint.is_some_and(|c| c.hurt.contains(&chunk.pack));
                        let is_newer = checkpoint.is_some_and(|c| c.manifest.index > planned_at);
                        // What nobody needed any more when the pack was mended is not in it, where the log says so later.
                        let is_mended = checkpoint.is_some_and(|c| c.mended.contains(&chunk.pack));
                        let is_left_out = is_mended && matches!(read, Some(Ok(None)));
                        let is_hurt = is_hurt || is_left_out;
                        if is_hurt {
                            self.see_to_pack(node, group, chunk.pack);
                        }
                        if is_hurt || is_newer {
                            // The files were others while it waited for inherited bytes: the client is to ask again.
                            let refused = Outcome::Refused(Refusal::Unavailable);
                            return self.answer_client(&reading.op, &refused, None);
                        }
                        return self.find(format!(
                            "node {node}: a read of group {group} needs {chunk:?}, which is not on its disk"
                        ));
                    };
                    self.coverage.hit("read of a pack");
                    reading.bytes.extend_from_slice(&found);
                }
                Piece::Stored { .. } => return self.fetch_stored(node, reading, piece),
                Piece::Inherited {
                    source,
                    incarnation,
                    from,
                    to,
                } => {
                    self.coverage.hit("inherited bytes");
                    let op = Asked::ReadInherited {
                        incarnation,
                        from,
                        to,
                    };
                    let request = Request::on_key(source, op);
                    return self.ask_for(node, Task::Read(Box::new(reading)), request);
                }
            }
        }
        let bytes = reading.bytes.split_off(reading.lead as usize);
        self.answer_client(&reading.op, &reading.outcome, Some(&bytes));
    }

    /// Bytes of a read came; it goes on.
    pub fn read_more(&mut self, node: u64, mut reading: Reading, bytes: Vec<bytes::Bytes>) {
        for piece in bytes {
            reading.bytes.extend_from_slice(&piece);
        }
        self.read_on(node, reading);
    }

    fn is_newest(&self, node: u64, group: u32) -> bool {
        let hosted = self.nodes[node as usize - 1].process.groups.get(&group);
        hosted.is_some_and(|h| h.group.applied().index == self.ledger.end(group))
    }

    fn on_inherited(&mut self, node: u64, mut reading: Reading, outcome: Outcome) {
        match outcome {
            Outcome::Read(plan) => {
                let mut rest = self.planned(node, &plan.pieces);
                rest.append(&mut reading.rest);
                reading.rest = rest;
                // Who planned it, and of which state, is not known here.
                reading.was_newest = false;
                self.read_on(node, reading);
            }
            Outcome::Refused(
                Refusal::SourceNotFound
                | Refusal::OffsetBeyondTail { .. }
                | Refusal::OffsetExpired { .. },
            ) if self.ledger.stands(&reading.op, &reading.outcome) => {
                self.find(format!(
                    "node {node}: the bytes that {} inherited are gone: {outcome:?}",
                    reading.op.key
                ));
            }
            _ => {
                let refused = Outcome::Refused(Refusal::Unavailable);
                self.answer_client(&reading.op, &refused, None);
            }
        }
    }
}

fn settled(stands: bool, incarnation: Incarnation, hold_id: u64) -> Asked {
    match stands {
        true => Asked::ConfirmHold {
            incarnation,
            hold_id,
        },
        false => Asked::ReleaseHold {
            incarnation,
            hold_id,
        },
    }
}
