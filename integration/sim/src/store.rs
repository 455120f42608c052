//! The object store that all nodes share, and what is wrong with it: requests that fail, that are slow, whose answer is
//! lost, or that arrive when nobody waits any more; answers that are cut or changed on their way; outages.
//! A request is on its way by itself: it arrives also when its node is gone by then. What is listed, and how wrongly, is in
//! `backup.rs`: nothing in a group's life lists objects.
//! Invariants: an object never changes, and a name has one content.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use storage::cold::{ColdError, ColdKey, ColdObject};

use ursula::protocol::ColdChunk;

use crate::backup::is_of_backup;
use crate::event::{Event, Life};
use crate::world::World;

/// A request is answered, or given up, within twice so much.
const WAY_MAX_US: u64 = 4_000_000;

/// A put that was given up arrives within so much.
const LATE_MAX_US: u64 = 15_000_000;

/// An outage that is longer than a grace may be.
const LONG_OUT_US: u64 = 60_000_000;

/// What is asked of the store.
#[derive(Debug, Clone)]
pub enum Ask {
    /// An object's bytes.
    Put(ColdKey, Bytes),
    /// So many bytes from there on.
    Get(ColdKey, u64, u64),
    /// Its size.
    Head(ColdKey),
    /// Objects to delete.
    Delete(Vec<ColdKey>),
    /// Objects of that beginning, behind a key, and how many at most.
    List(String, Option<ColdKey>, usize),
}

/// What the store says.
#[derive(Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// An object's bytes.
    Bytes(Bytes),
    /// Its size.
    Length(u64),
    /// What there is.
    Listed(Vec<ColdObject>),
}

/// An answer on its way, of which request.
#[derive(Debug)]
pub struct Answered {
    /// The task that asked.
    pub task: u64,
    /// Its number on the desk.
    pub ask: u64,
    /// What it says.
    pub result: Result<Answer, ColdError>,
}

/// It may come about later.
pub fn unavailable(op: &'static str) -> ColdError {
    ColdError::Unavailable {
        op,
        reason: "simulated".to_owned(),
    }
}

/// How the store refuses whatever is asked.
#[derive(Debug, Clone, Copy)]
enum Refuses {
    /// Its credentials are not taken.
    Denied,
    /// There is no bucket of that name.
    BucketGone,
}

/// See the module's head.
#[derive(Default)]
pub struct ObjectStore {
    objects: BTreeMap<ColdKey, Bytes>,
    /// What damaged objects were.
    spoilt: BTreeMap<ColdKey, Bytes>,
    /// Objects that ever were damaged.
    was_spoilt: BTreeSet<ColdKey>,
    /// It answers nothing until then.
    out_until_us: u64,
    /// What it says until then, if it says anything.
    refuses: Option<Refuses>,
    /// Puts of an outage that is longer than a grace arrive late from here on: their leader will be gone.
    all_late_from_us: u64,
    /// Tasks, by node and life, that were given changed bytes: nobody is twice.
    misled: BTreeSet<(u64, u64, u64)>,
}

impl ObjectStore {
    /// Keys of all objects.
    pub fn keys(&self) -> impl Iterator<Item = &ColdKey> {
        self.objects.keys()
    }

    /// An object.
    pub fn get(&self, key: &ColdKey) -> Option<&Bytes> {
        self.objects.get(key)
    }

    /// It answers nothing now.
    pub fn is_out(&self, now_us: u64) -> bool {
        self.out_until_us > now_us
    }

    /// An object is something else from now on.
    pub fn spoil(&mut self, key: &ColdKey, bytes: Bytes) {
        if let Some(sound) = self.objects.insert(key.clone(), bytes) {
            self.spoilt.insert(key.clone(), sound);
            self.was_spoilt.insert(key.clone());
        }
    }

    /// It is what it was; answers whether it was not.
    pub fn restore(&mut self, key: &ColdKey) -> bool {
        let sound = self.spoilt.remove(key);
        let is_restored = sound.is_some();
        if let Some(sound) = sound {
            self.objects.insert(key.clone(), sound);
        }
        is_restored
    }

    /// It is damaged.
    pub fn is_spoilt(&self, key: &ColdKey) -> bool {
        self.spoilt.contains_key(key)
    }

    /// It is, or was.
    pub fn was_spoilt(&self, key: &ColdKey) -> bool {
        self.was_spoilt.contains(key)
    }

    /// A chunk of it is.
    pub fn is_chunk_spoilt(&self, key: &ColdKey, chunk: &ColdChunk) -> bool {
        let range = chunk.position as usize..(chunk.position + u64::from(chunk.stored)) as usize;
        let now = self.objects.get(key).and_then(|o| o.get(range.clone()));
        let sound = self.spoilt.get(key).and_then(|o| o.get(range));
        sound.is_some() && now != sound
    }

    fn carry_out(&mut self, ask: &Ask) -> Result<Answer, ColdError> {
        let not_found = |key: &ColdKey| ColdError::NotFound { key: key.clone() };
        match ask {
            Ask::Put(key, bytes) => match self.objects.get(key) {
                Some(there) if there != bytes => Err(ColdError::Conflict { key: key.clone() }),
                _ => {
                    self.objects.insert(key.clone(), bytes.clone());
                    Ok(Answer::Done)
                }
            },
            Ask::Get(key, from, length) => {
                let object = self.objects.get(key).ok_or_else(|| not_found(key))?;
                let range = *from as usize..(*from + *length) as usize;
                match object.get(range.clone()) {
                    Some(_) => Ok(Answer::Bytes(object.slice(range))),
                    None => Err(cut(key)),
                }
            }
            Ask::Head(key) => match self.objects.get(key) {
                Some(object) => Ok(Answer::Length(object.len() as u64)),
                None => Err(not_found(key)),
            },
            Ask::Delete(keys) => {
                for key in keys {
                    self.objects.remove(key);
                    self.spoilt.remove(key);
                }
                Ok(Answer::Done)
            }
            // What it answers is not what there is.
            Ask::List(..) => Ok(Answer::Listed(Vec::new())),
        }
    }
}

fn cut(key: &ColdKey) -> ColdError {
    ColdError::Corrupt {
        key: key.clone(),
        what: "it ended early".to_owned(),
    }
}

impl World {
    /// Sends what a task of a process has asked.
    pub fn send_asks(&mut self, life: Life, task: u64, asks: Vec<(u64, Ask)>) {
        for (ask, what) in asks {
            let at_us = self.now_us + self.way_us();
            let event = Event::StoreDoes(life, task, ask, Box::new(what));
            self.queue.at(at_us, event);
        }
    }

    fn way_us(&mut self) -> u64 {
        let typical_us = match self.net.is_calm {
            true => self.plan.store_us.min(10_000),
            false => self.plan.store_us,
        };
        self.rng.latency(typical_us).min(WAY_MAX_US)
    }

    /// A request arrives at the store.
    pub fn store_does(&mut self, life: Life, task: u64, ask: u64, what: &Ask) {
        let result = self.store_says(life, task, what);
        self.trace.show(self.now_us, || {
            let shown = match &result {
                Ok(Answer::Bytes(bytes)) => format!("{} bytes", bytes.len()),
                other => format!("{other:?}"),
            };
            format!("store: node {} asks {}: {shown}", life.node, short(what))
        });
        let at_us = self.now_us + self.way_us();
        let answered = Answered { task, ask, result };
        self.queue
            .at(at_us, Event::StoreAnswers(life, Box::new(answered)));
    }

    fn store_says(&mut self, life: Life, task: u64, what: &Ask) -> Result<Answer, ColdError> {
        let op = match what {
            Ask::Put(..) => "put",
            Ask::Get(..) => "get",
            Ask::Head(_) => "head",
            Ask::Delete(_) => "delete",
            Ask::List(..) => "list",
        };
        if self.store.out_until_us > self.now_us {
            self.coverage.hit(match what {
                Ask::Get(..) => "cold read during an outage",
                _ => "request during an outage of the store",
            });
            if let Some(refuses) = self.store.refuses {
                return Err(self.refusal(refuses, op));
            }
            self.swallow(what);
            return Err(unavailable(op));
        }
        let is_calm = self.net.is_calm;
        if !is_calm && self.rng.chance(self.plan.store_fails) {
            if self.rng.chance(300_000) {
                self.coverage.hit("the store asks to slow down");
                return Err(ColdError::Throttled { op });
            }
            self.coverage.hit("the store fails");
            return Err(unavailable(op));
        }
        if self.swallow(what) {
            return Err(unavailable(op));
        }
        self.look_at_deletion(what);
        self.note_for_lists(what);
        let answer = match what {
            Ask::List(prefix, after, limit) => {
                Ok(Answer::Listed(self.listed(prefix, after.as_ref(), *limit)))
            }
            _ => self.store.carry_out(what),
        };
        if !is_calm && self.rng.chance(self.plan.store_lost) {
            self.coverage.hit(match what {
                Ask::Put(..) => "lost answer of a put",
                Ask::Delete(_) => "lost answer of a deletion",
                _ => "lost answer of the store",
            });
            return Err(unavailable(op));
        }
        match (answer, what) {
            (Ok(Answer::Bytes(bytes)), Ask::Get(key, ..)) if !is_calm => {
                self.changed_on_the_way(life, task, key, bytes)
            }
            (answer, Ask::Put(key, _)) if !is_of_backup(key) => {
                self.coverage.hit("pack put");
                answer
            }
            (answer, Ask::Delete(keys)) if !keys.iter().any(is_of_backup) => {
                self.coverage.hit("object deleted after its grace");
                answer
            }
            (answer, _) => answer,
        }
    }

    fn refusal(&mut self, refuses: Refuses, op: &'static str) -> ColdError {
        match refuses {
            Refuses::Denied => {
                self.coverage.hit("the store denies");
                ColdError::Denied {
                    op,
                    reason: "simulated".to_owned(),
                }
            }
            Refuses::BucketGone => {
                self.coverage.hit("the bucket is gone");
                ColdError::Misconfigured {
                    what: "the bucket is not there".to_owned(),
                }
            }
        }
    }

    /// A put may be given up by its client and arrive later, also one that began in an outage.
    fn swallow(&mut self, what: &Ask) -> bool {
        let Ask::Put(key, bytes) = what else {
            return false;
        };
        let is_last = self.store.out_until_us > self.now_us
            && self.store.all_late_from_us > 0
            && self.now_us >= self.store.all_late_from_us;
        let late = if is_last {
            700_000
        } else {
            self.plan.store_late
        };
        let is_late = !self.net.is_calm && self.rng.chance(late);
        if is_late {
            let at_us = self.now_us + self.rng.below(LATE_MAX_US);
            let late = Event::LatePut(key.clone(), bytes.clone());
            self.queue.at(at_us, late);
        }
        is_late
    }

    fn changed_on_the_way(
        &mut self,
        life: Life,
        task: u64,
        key: &ColdKey,
        bytes: Bytes,
    ) -> Result<Answer, ColdError> {
        let who = (life.node, life.life, task);
        let is_struck = self.rng.chance(self.plan.store_flip) && !bytes.is_empty();
        if !is_struck || !self.store.misled.insert(who) {
            return Ok(Answer::Bytes(bytes));
        }
        if self.rng.chance(300_000) {
            self.coverage.hit("an object came cut");
            return Err(cut(key));
        }
        self.coverage.hit("an object came with a flipped bit");
        let mut flipped = bytes.to_vec();
        let at = self.rng.below(flipped.len() as u64) as usize;
        flipped[at] ^= 1 << self.rng.below(8);
        Ok(Answer::Bytes(flipped.into()))
    }

    /// A put arrives that nobody waits for any more.
    pub fn late_put(&mut self, key: ColdKey, bytes: Bytes) {
        self.coverage.hit("put that arrives late");
        self.trace
            .show(self.now_us, || format!("store: {key} arrives late"));
        let put = Ask::Put(key, bytes);
        self.note_for_lists(&put);
        let _ = self.store.carry_out(&put);
    }

    /// The store is out for a while, and the next outage is scheduled.
    pub fn store_out(&mut self) {
        if self.net.is_calm {
            return;
        }
        let span_us = self.rng.pick(&[2_000_000, 20_000_000, 60_000_000]);
        let mut until_us = self.now_us + self.rng.latency(span_us);
        self.coverage.hit("the store is out");
        self.store.all_late_from_us = 0;
        let is_beyond_grace = self.rng.chance(200_000);
        if is_beyond_grace {
            // A leader repeats its put for longer than a grace, and is gone when the last one arrives.
            self.coverage
                .hit("the store is out for longer than a grace");
            let grace_us = self.plan.cold_grace_ms * 1000;
            until_us = self.now_us + grace_us + self.rng.range(5_000_000, 20_000_000);
            self.store.all_late_from_us = until_us - LATE_MAX_US / 2;
            let at_us = until_us - self.rng.below(LATE_MAX_US / 5);
            self.queue.at(at_us, Event::LeadersFall);
        }
        self.trace.show(self.now_us, || {
            format!("the store is out until {:.3}", until_us as f64 / 1e6)
        });
        self.store.out_until_us = until_us;
        self.store.refuses = match self.rng.below(6) {
            0 => Some(Refuses::Denied),
            1 => Some(Refuses::BucketGone),
            _ => None,
        };
        if !is_beyond_grace && until_us > self.now_us + LONG_OUT_US && self.rng.chance(700_000) {
            // Who waited for the store all the time is gone when it comes back.
            let at_us = until_us - self.rng.below(LATE_MAX_US / 5);
            self.queue.at(at_us, Event::LeadersFall);
        }
        let next_us = until_us + self.rng.latency(self.plan.store_out_us);
        self.queue.at(next_us, Event::StoreOut);
    }

    /// All faults of the store end.
    pub fn heal_store(&mut self) {
        self.store.out_until_us = 0;
    }
}

fn short(what: &Ask) -> String {
    match what {
        Ask::Put(key, bytes) => format!("put {key}, {} bytes", bytes.len()),
        Ask::Get(key, from, length) => format!("get {key}, {length} bytes from {from}"),
        Ask::Head(key) => format!("head {key}"),
        Ask::Delete(keys) => format!("delete {keys:?}"),
        Ask::List(prefix, after, limit) => format!("list {limit} of {prefix} behind {after:?}"),
    }
}
