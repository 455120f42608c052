//! The logic of group 0: buckets and the slot table. Pure, as all group logic; applied in log order.

use std::collections::BTreeMap;

use raftproto::checkpoint::{self, MetaState};
use raftproto::command::command::Kind;

use crate::protocol::{BucketInfo, BucketName, Outcome, Refusal, SLOT_COUNT, Slot};

/// The cluster's tables.
#[derive(Debug, Default, Clone)]
pub struct Meta {
    next_generation: u64,
    buckets: BTreeMap<String, Bucket>,
    slots: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    generation: u64,
    created_ms: u64,
    deleting: bool,
}

/// A copy of the tables that every core holds, so that no append asks group 0.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Buckets that take creates, with their generation.
    pub buckets: BTreeMap<BucketName, u64>,
    /// `slots[i]` is the group of slot `i`; empty before group 0 first assigned them.
    pub slots: Vec<u32>,
}

impl Tables {
    /// The group that owns a slot; `None` before the slots are assigned.
    pub fn group_of(&self, slot: Slot) -> Option<u32> {
        self.slots.get(usize::from(slot.0)).copied()
    }
}

impl Meta {
    /// Applies one of the meta group's commands.
    pub(crate) fn apply(&mut self, kind: Kind, stamp_ms: u64) -> Outcome {
        match kind {
            Kind::CreateBucket(c) => self.create(c.bucket, stamp_ms),
            Kind::BeginDeleteBucket(b) => self.begin_delete(&b.bucket),
            Kind::FinishDeleteBucket(f) => self.finish_delete(&f.bucket, f.generation, f.empty),
            Kind::AssignSlots(a) => {
                if self.slots.is_empty() && a.group_count > 0 {
                    let groups = (0..u32::from(SLOT_COUNT)).map(|slot| 1 + slot % a.group_count);
                    self.slots = groups.collect();
                }
                Outcome::Done
            }
            _ => Outcome::Refused(Refusal::Unavailable),
        }
    }

    fn create(&mut self, name: String, stamp_ms: u64) -> Outcome {
        if let Some(bucket) = self.buckets.get(&name) {
            if bucket.deleting {
                return Outcome::Refused(Refusal::BucketDeleting);
            }
            return Outcome::Bucket(info(&name, *bucket, false));
        }
        self.next_generation += 1;
        let bucket = Bucket {
            generation: self.next_generation,
            created_ms: stamp_ms,
            deleting: false,
        };
        let answer = info(&name, bucket, true);
        self.buckets.insert(name, bucket);
        Outcome::Bucket(answer)
    }

    fn begin_delete(&mut self, name: &str) -> Outcome {
        match self.buckets.get_mut(name) {
            None => Outcome::Refused(Refusal::BucketNotFound),
            Some(bucket) => {
                bucket.deleting = true;
                Outcome::Bucket(info(name, *bucket, false))
            }
        }
    }

    fn finish_delete(&mut self, name: &str, generation: u64, empty: bool) -> Outcome {
        let marked = |b: &&mut Bucket| b.deleting && b.generation == generation;
        if let Some(bucket) = self.buckets.get_mut(name).filter(marked) {
            if empty {
                self.buckets.remove(name);
            } else {
                // All groups have fenced the old generation; creates go on under a new one.
                self.next_generation += 1;
                bucket.generation = self.next_generation;
                bucket.deleting = false;
            }
        }
        Outcome::Done
    }

    /// Describes a bucket.
    pub fn bucket(&self, name: &BucketName) -> Outcome {
        match self.buckets.get(name.as_str()) {
            None => Outcome::Refused(Refusal::BucketNotFound),
            Some(bucket) => Outcome::Bucket(info(name.as_str(), *bucket, false)),
        }
    }

    /// Buckets whose deletion is under way.
    pub fn deleting(&self) -> Vec<BucketName> {
        let marked = self.buckets.iter().filter(|(_, bucket)| bucket.deleting);
        marked
            .map(|(name, _)| BucketName::from_stored(name))
            .collect()
    }

    /// What every core gets a copy of.
    pub fn tables(&self) -> Tables {
        let open = self.buckets.iter().filter(|(_, bucket)| !bucket.deleting);
        Tables {
            buckets: open
                .map(|(name, b)| (BucketName::from_stored(name), b.generation))
                .collect(),
            slots: self.slots.clone(),
        }
    }

    pub(crate) fn encode(&self) -> MetaState {
        MetaState {
            next_generation: self.next_generation,
            buckets: self
                .buckets
                .iter()
                .map(|(name, b)| checkpoint::Bucket {
                    name: name.clone(),
                    generation: b.generation,
                    created_ms: b.created_ms,
                    deleting: b.deleting,
                })
                .collect(),
            slots: self.slots.clone(),
        }
    }

    pub(crate) fn decode(state: &MetaState) -> Meta {
        let bucket = |b: &checkpoint::Bucket| Bucket {
            generation: b.generation,
            created_ms: b.created_ms,
            deleting: b.deleting,
        };
        Meta {
            next_generation: state.next_generation,
            buckets: state
                .buckets
                .iter()
                .map(|b| (b.name.clone(), bucket(b)))
                .collect(),
            slots: state.slots.clone(),
        }
    }
}

fn info(name: &str, bucket: Bucket, fresh: bool) -> BucketInfo {
    BucketInfo {
        name: BucketName::from_stored(name),
        generation: bucket.generation,
        created_ms: bucket.created_ms,
        deleting: bucket.deleting,
        fresh,
    }
}
