//! Clients come back: when faults have ended and every group has a leader, whoever asks as a client does, of one node after the
//! other, gets what it asks for. Of each stream the newest bytes are read and something is appended, and each group gets a new stream.
//! A new stream's steps end with what was asked for and nothing else; those of an older one may also be refused for what clients
//! made of it, which is named here. Any other refusal may come for a while and not for ever: the time that passes is the judge,
//! not how often somebody tried.
//! Assumes that nothing is broken then that clients may be told of for ever: disks have room, and the store is well.

use std::collections::{BTreeSet, VecDeque};

use ursula::group::node_of;
use ursula::protocol::{Expiry, Member, Outcome, Refusal, Retention};

use crate::client::{Client, keys};
use crate::cold_check::SETTLED_WITHIN_US;
use crate::event::Event;
use crate::history::{Op, What};
use crate::world::World;

/// Who asks.
pub const CLOSER: usize = usize::MAX - 2;

/// A refusal that comes later than this after the first attempt is one too many. What a replica holds back it refuses after 5 s.
const CLOSED_WITHIN_US: u64 = 15_000_000;

/// Of what is read to the end, so much is asked for at a time: a stream can lie in hundreds of objects.
const READ_MAX: u64 = 3_000;

/// What a refused client waits, as it is told to.
const RETRY_AFTER_US: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// From there on, to the end.
    Read(u64),
    Append,
    Create,
}

/// What an answer means for the step that it came to.
enum Meaning {
    /// It is what was asked for.
    Done,
    /// What clients did to the stream answers it.
    Settled,
    /// It is to be tried again.
    Again,
    /// The same, until the bytes were found or put right by hand.
    AgainForBytes,
    /// Nothing that this step is answered with.
    Wrong,
}

/// What is asked of one stream, one step after the other.
#[derive(Debug)]
struct Errand {
    group: u32,
    key: String,
    /// No client ever asked for it.
    is_new: bool,
    steps: VecDeque<Step>,
    /// When the first step of those that are left was tried first.
    since_us: u64,
    /// Who was asked last.
    node: u64,
    /// The attempt that is under way.
    op: u64,
}

/// What is left to ask.
#[derive(Debug, Default)]
pub struct Closing {
    errands: Vec<Errand>,
    /// Groups by which a write was done.
    written: BTreeSet<u32>,
}

impl World {
    /// Every group has a leader: clients come back.
    pub fn begin_closing(&mut self) {
        let (groups, each) = (self.plan.groups as u32, self.plan.keys);
        let known = keys(groups, each + 1).into_iter().zip(1..);
        for (keys, group) in known {
            for (number, key) in keys.into_iter().enumerate() {
                let is_new = number as u64 >= each;
                let steps = match is_new {
                    false => [Step::Read(0), Step::Append].into(),
                    true => [Step::Create, Step::Append, Step::Read(0)].into(),
                };
                self.closing.errands.push(Errand {
                    group,
                    key,
                    is_new,
                    steps,
                    since_us: self.now_us,
                    node: self.rng.below(self.nodes.len() as u64),
                    op: 0,
                });
            }
        }
        for errand in 0..self.closing.errands.len() {
            self.close(errand);
        }
    }

    /// A step of an errand is tried, of the member that comes next.
    pub fn close(&mut self, place: usize) {
        let members: Vec<u64> = self.members().iter().map(|m| m.raft_id).collect();
        let sound = members.into_iter().filter(|id| self.is_sound(*id));
        let mut sound: Vec<u64> = sound.map(node_of).collect();
        if sound.is_empty() {
            // Orders to replace nodes were given that none of them has followed: those of before go on.
            let reached = self.nodes.iter().filter(|n| self.is_reached(n));
            sound = reached.map(|n| n.life.node).collect();
        }
        self.asked += 1;
        let id = self.asked;
        let body = Client::body(id, &self.plan, &mut self.rng);
        let errand = &mut self.closing.errands[place];
        let Some(step) = errand.steps.front() else {
            return;
        };
        errand.op = id;
        let what = match *step {
            Step::Read(from) => What::Read {
                from,
                bytes_max: READ_MAX,
                is_live: false,
            },
            Step::Append => What::Append {
                producer: None,
                body,
                close: false,
                seq: None,
            },
            Step::Create => What::Create {
                expiry: Expiry::Never,
                retention: Retention::default(),
                body,
                closed: false,
            },
        };
        let (group, key) = (errand.group, errand.key.clone());
        let next = sound.iter().find(|node| **node > errand.node);
        let Some(node) = next.or(sound.first()).copied() else {
            // One that is alone may be starting again.
            return self.close_again(place);
        };
        errand.node = node;
        self.send_operation(Op {
            id,
            client: CLOSER,
            node,
            group,
            key,
            what,
            call_us: self.now_us,
            known: 0,
        });
    }

    /// An attempt was answered; `None`: its node is gone.
    pub fn closing_answered(&mut self, op: &Op, outcome: Option<&Outcome>) {
        let within_us = self.within_us(CLOSED_WITHIN_US);
        let errands = &mut self.closing.errands;
        let Some(place) = errands.iter().position(|e| e.op == op.id) else {
            return;
        };
        let errand = &mut errands[place];
        let took_us = self.now_us - errand.since_us;
        let step = errand.steps[0];
        let waits_for_bytes = match outcome.map(|o| meaning(step, errand.is_new, o)) {
            None | Some(Meaning::Again) => false,
            Some(Meaning::AgainForBytes) => true,
            Some(Meaning::Wrong) => {
                let key = &op.key;
                return self.find(format!(
                    "{step:?} of {key} was answered by {outcome:?} after faults have ended"
                ));
            }
            Some(Meaning::Done | Meaning::Settled) => {
                errand.steps.pop_front();
                errand.since_us = self.now_us;
                match outcome {
                    Some(Outcome::Created(_) | Outcome::Appended { .. }) => {
                        self.closing.written.insert(errand.group);
                    }
                    Some(Outcome::Read(plan)) if plan.end < plan.meta.tail => {
                        if plan.end <= plan.start {
                            return self.find(format!(
                                "a read of {} does not get on from {:?}, and its tail is {:?}",
                                op.key, plan.start, plan.meta.tail
                            ));
                        }
                        errand.steps.push_front(Step::Read(plan.end.0));
                    }
                    _ => {}
                }
                return self.close(place);
            }
        };
        // What is damaged is looked for among all nodes, and what none has is put right by hand.
        let is_late = match waits_for_bytes {
            true => self.now_us > self.plan.chaos_us + SETTLED_WITHIN_US,
            false => took_us > within_us,
        };
        if waits_for_bytes {
            // How long it was refused for something else counts from here.
            self.closing.errands[place].since_us = self.now_us;
        } else {
            self.peaks[4] = self.peaks[4].max(took_us * 1000 / within_us);
        }
        if is_late {
            let (step, seconds) = (self.closing.errands[place].steps[0], took_us / 1_000_000);
            return self.find(format!(
                "{step:?} of {} of group {} is refused for {seconds} s after faults have ended, by node {} with {outcome:?}",
                op.key, op.group, op.node
            ));
        }
        self.coverage.hit("refused after the end of faults");
        self.close_again(place);
    }

    fn close_again(&mut self, place: usize) {
        let again_us = self.now_us + RETRY_AFTER_US;
        self.queue.at(again_us, Event::Close(place));
    }

    /// What clients that came back do not have yet.
    pub fn unclosed(&self) -> Option<String> {
        let errands = &self.closing.errands;
        let left = errands.iter().find(|e| !e.steps.is_empty());
        let members = self.members();
        let sound = |m: &Member| self.is_sound(m.raft_id).then_some(m.raft_id);
        let sound: Vec<u64> = members.iter().filter_map(sound).collect();
        let left = left.map(|e| {
            format!("a client waits for {e:?}; sound are {sound:?} of the members {members:?}")
        });
        let groups = 1..=self.plan.groups as u32;
        let mut idle = groups.filter(|g| !self.closing.written.contains(g));
        left.or_else(|| {
            Some(format!(
                "nothing could be written to group {}",
                idle.next()?
            ))
        })
    }
}

fn meaning(step: Step, is_new: bool, outcome: &Outcome) -> Meaning {
    let refusal = match (step, outcome) {
        (Step::Read(_), Outcome::Read(_))
        | (Step::Append, Outcome::Appended { .. })
        | (Step::Create, Outcome::Created(_)) => return Meaning::Done,
        (_, Outcome::Refused(refusal)) => refusal,
        _ => return Meaning::Wrong,
    };
    let is_settled = match refusal {
        Refusal::BytesSought { .. } | Refusal::BytesLost { .. } => {
            if matches!(step, Step::Read(_)) {
                return Meaning::AgainForBytes;
            }
            false
        }
        // It was deleted, or its time is over.
        Refusal::NotFound | Refusal::Gone => true,
        Refusal::Closed { .. } => step == Step::Append,
        // While it was read it was trimmed, or another stream came to its key.
        Refusal::OffsetExpired { .. } | Refusal::OffsetBeyondTail { .. } => {
            matches!(step, Step::Read(1..))
        }
        // Not even clients could bring about one of these for what is asked here, or they last only for a while.
        Refusal::SourceNotFound
        | Refusal::SourceGone
        | Refusal::ConfigMismatch { .. }
        | Refusal::KeyBlocked
        | Refusal::ContentTypeMismatch { .. }
        | Refusal::SeqRegression { .. }
        | Refusal::StaleEpoch { .. }
        | Refusal::EpochMustStartAtZero
        | Refusal::ProducerGap { .. }
        | Refusal::OffsetMisaligned
        | Refusal::SubOffsetBeyondData
        | Refusal::BucketNotFound
        | Refusal::BucketStale
        | Refusal::BucketDeleting
        | Refusal::BucketNotEmpty { .. }
        | Refusal::HoldExpired
        | Refusal::BadKey(_)
        | Refusal::Bad(_)
        | Refusal::BodyTooLarge { .. }
        | Refusal::BodyTimeout
        | Refusal::Overloaded { .. }
        | Refusal::LimitReached { .. }
        | Refusal::BadMembers(_)
        | Refusal::Unavailable
        | Refusal::NotLeader { .. }
        | Refusal::BegunSince { .. }
        | Refusal::OutcomeUnknown
        | Refusal::DataDamaged => false,
    };
    match is_settled && !is_new {
        true => Meaning::Settled,
        false => Meaning::Again,
    }
}
