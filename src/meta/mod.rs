//! The logic of group 0: buckets, the slot table, the members. Pure, as all group logic; applied in log order.

pub mod admission;
pub mod joining;
pub mod level;
mod members;

use std::collections::BTreeMap;

use raftproto::checkpoint::{self, MetaState};
use raftproto::command::command::Kind;

use crate::mutation;
use crate::protocol::{
    BucketEnd, BucketInfo, BucketName, BucketTerms, Member, Outcome, Refusal, Retention,
    SLOT_COUNT, Slot,
};

/// Buckets of a cluster: every core has a copy of the table, and each change copies it anew.
const BUCKETS_MAX: usize = 100_000;

/// The cluster's tables.
#[derive(Debug, Default, Clone)]
pub struct Meta {
    next_generation: u64,
    buckets: BTreeMap<String, Bucket>,
    slots: Vec<u32>,
    members: Vec<Member>,
    /// The last raft id of each node that was removed; no more than there are numbers of nodes, which are 16 bits.
    removed: BTreeMap<u64, u64>,
    history: u64,
    /// 0: none was noted.
    level: u32,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    generation: u64,
    created_ms: u64,
    deleting: bool,
    retention: Retention,
}

/// A copy of the tables that every core holds, so that no append asks group 0.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Buckets that take creates.
    pub buckets: BTreeMap<BucketName, BucketTerms>,
    /// `slots[i]` is the group of slot `i`; empty before group 0 first assigned them.
    pub slots: Vec<u32>,
    /// The members that all groups shall have; empty: as they were founded.
    pub members: Vec<Member>,
    /// Tells two clusters of one name apart; given with the slots. 0: founded before there were any.
    pub history: u64,
    /// Version of commands that every member can apply; 0: none was noted.
    pub level: u32,
    /// The entry of the meta group's log by which the members are.
    pub as_of: u64,
}

impl Tables {
    /// The group that owns a slot; `None` before the slots are assigned.
    pub fn group_of(&self, slot: Slot) -> Option<u32> {
        self.slots.get(usize::from(slot.0)).copied()
    }
}

impl Meta {
    /// Applies one of the meta group's commands, of an entry of this version and stamp. Answers also whether the tables
    /// changed that cores have copies of.
    pub(crate) fn apply(&mut self, kind: Kind, version: u32, stamp_ms: u64) -> (Outcome, bool) {
        match kind {
            Kind::CreateBucket(c) => {
                let retention = c.retention.map(Retention::from_message);
                self.create(c.bucket, retention, stamp_ms)
            }
            Kind::BeginDeleteBucket(b) => self.begin_delete(&b.bucket),
            Kind::FinishDeleteBucket(f) => {
                let end = self.finish_delete(&f.bucket, f.generation, f.empty);
                // A marked bucket is in no table, so its removal changes none.
                (Outcome::Finished(end), end == BucketEnd::Reopened)
            }
            Kind::ChangeMembers(change) => self.change_members(change, version),
            Kind::RaiseLevel(raise) => (Outcome::Done, self.raise_level(&raise)),
            Kind::AssignSlots(a) => {
                let assigns = self.slots.is_empty() && a.group_count > 0;
                if assigns {
                    let groups = (0..u32::from(SLOT_COUNT)).map(|slot| 1 + slot % a.group_count);
                    self.slots = groups.collect();
                    self.history = a.history;
                }
                (Outcome::Done, assigns)
            }
            _ => (Outcome::Refused(Refusal::Unavailable), false),
        }
    }

    fn create(
        &mut self,
        name: String,
        retention: Option<Retention>,
        stamp_ms: u64,
    ) -> (Outcome, bool) {
        if let Some(bucket) = self.buckets.get_mut(&name) {
            if bucket.deleting {
                return (Outcome::Refused(Refusal::BucketDeleting), false);
            }
            let before = bucket.retention;
            bucket.retention = retention.unwrap_or(before);
            let is_changed = bucket.retention != before;
            return (Outcome::Bucket(info(&name, *bucket, false)), is_changed);
        }
        if self.buckets.len() >= BUCKETS_MAX {
            let bound = "buckets_max";
            return (Outcome::Refused(Refusal::LimitReached { bound }), false);
        }
        self.next_generation += 1;
        let bucket = Bucket {
            generation: self.next_generation,
            created_ms: stamp_ms,
            deleting: false,
            retention: retention.unwrap_or_default(),
        };
        let answer = info(&name, bucket, true);
        self.buckets.insert(name, bucket);
        (Outcome::Bucket(answer), true)
    }

    fn begin_delete(&mut self, name: &str) -> (Outcome, bool) {
        match self.buckets.get_mut(name) {
            None => (Outcome::Refused(Refusal::BucketNotFound), false),
            Some(bucket) => {
                let was_open = !std::mem::replace(&mut bucket.deleting, true);
                (Outcome::Bucket(info(name, *bucket, false)), was_open)
            }
        }
    }

    /// Ends the deletion that counted under `generation`. One whose generation is over changes nothing.
    fn finish_delete(&mut self, name: &str, generation: u64, empty: bool) -> BucketEnd {
        let Some(bucket) = self.buckets.get_mut(name) else {
            // By this deletion, asked again, or by another.
            return BucketEnd::Removed;
        };
        if !bucket.deleting || bucket.generation != generation {
            return BucketEnd::Superseded;
        }
        if empty {
            self.buckets.remove(name);
            return BucketEnd::Removed;
        }
        self.next_generation += 1;
        bucket.generation = self.next_generation;
        bucket.deleting = false;
        BucketEnd::Reopened
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
    pub(crate) fn tables(&self) -> Tables {
        let open = self.buckets.iter().filter(|(_, bucket)| !bucket.deleting);
        Tables {
            buckets: open
                .map(|(name, b)| {
                    let terms = BucketTerms {
                        generation: b.generation,
                        retention: b.retention,
                    };
                    (BucketName::from_stored(name), terms)
                })
                .collect(),
            slots: self.slots.clone(),
            members: self.members.clone(),
            history: self.history,
            level: self.level,
            as_of: 0,
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
                    retention: (!b.retention.is_unlimited()).then(|| b.retention.to_message()),
                })
                .collect(),
            slots: self.slots.clone(),
            members: self
                .members
                .iter()
                .map(|m| checkpoint::Member {
                    raft_id: m.raft_id,
                    cluster_address: m.address.clone(),
                    drained: m.drained,
                })
                .collect(),
            history: self.history,
            removed_raft_ids: self.removed.values().copied().collect(),
            level: self.level,
        }
    }

    pub(crate) fn decode(state: &MetaState) -> Meta {
        let bucket = |b: &checkpoint::Bucket| Bucket {
            generation: b.generation,
            created_ms: b.created_ms,
            deleting: b.deleting,
            retention: b.retention.map(Retention::from_message).unwrap_or_default(),
        };
        Meta {
            next_generation: state.next_generation,
            buckets: state
                .buckets
                .iter()
                .map(|b| (b.name.clone(), bucket(b)))
                .collect(),
            slots: match mutation::is_on("slots-not-checkpointed") {
                true => Vec::new(),
                false => state.slots.clone(),
            },
            members: state
                .members
                .iter()
                .map(|m| Member {
                    raft_id: m.raft_id,
                    address: m.cluster_address.clone(),
                    drained: m.drained,
                })
                .collect(),
            removed: match mutation::is_on("checkpoint-without-removed") {
                true => BTreeMap::new(),
                false => {
                    let ids = state.removed_raft_ids.iter();
                    ids.map(|id| (id & 0xffff, *id)).collect()
                }
            },
            history: state.history,
            level: state.level,
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
        retention: bucket.retention,
    }
}

#[cfg(test)]
mod tests {
    use raftproto::command::{self, change_members::Change};

    use super::*;

    fn create(meta: &mut Meta, name: &str) -> (Outcome, bool) {
        let bucket = name.to_owned();
        let create = command::CreateBucket {
            bucket,
            retention: None,
        };
        meta.apply(Kind::CreateBucket(create), 1, 1)
    }

    fn begin(meta: &mut Meta) -> (u64, bool) {
        let bucket = "demo".to_owned();
        let begin = Kind::BeginDeleteBucket(command::BeginDeleteBucket { bucket });
        match meta.apply(begin, 1, 2) {
            (Outcome::Bucket(info), changed) => (info.generation, changed),
            other => panic!("{other:?}"),
        }
    }

    fn finish(meta: &mut Meta, generation: u64, empty: bool) -> (BucketEnd, bool) {
        let finish = command::FinishDeleteBucket {
            bucket: "demo".to_owned(),
            generation,
            empty,
        };
        match meta.apply(Kind::FinishDeleteBucket(finish), 1, 3) {
            (Outcome::Finished(end), changed) => (end, changed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_two_deletions_the_later_end_says_that_it_did_nothing() {
        let mut meta = Meta::default();
        create(&mut meta, "demo");
        let (first, second) = (begin(&mut meta).0, begin(&mut meta).0);
        assert_eq!(first, second);
        // The first counted a stream, which was gone when the second counted.
        assert_eq!(finish(&mut meta, first, false), (BucketEnd::Reopened, true));
        assert_eq!(
            finish(&mut meta, second, true),
            (BucketEnd::Superseded, false)
        );
        let third = begin(&mut meta).0;
        assert_eq!(finish(&mut meta, third, true), (BucketEnd::Removed, false));
        assert_eq!(finish(&mut meta, third, true), (BucketEnd::Removed, false));
    }

    #[test]
    fn only_what_changes_the_tables_says_so() {
        let mut meta = Meta::default();
        let assign = |history| {
            Kind::AssignSlots(command::AssignSlots {
                group_count: 4,
                history,
            })
        };
        assert!(meta.apply(assign(7), 1, 1).1);
        // Of two leaders that found the table empty, the first one names the history.
        assert!(!meta.apply(assign(8), 1, 1).1);
        assert_eq!(meta.tables().history, 7);
        assert_eq!(Meta::decode(&meta.encode()).tables().history, 7);
        assert!(create(&mut meta, "demo").1);
        assert!(!create(&mut meta, "demo").1);
        assert!(begin(&mut meta).1);
        assert!(!begin(&mut meta).1);
        assert!(!create(&mut meta, "demo").1, "refused while it is deleted");
    }

    fn change(meta: &mut Meta, change: Change) -> Vec<u64> {
        change_in(4, meta, change)
    }

    fn change_in(version: u32, meta: &mut Meta, change: Change) -> Vec<u64> {
        let base = [1, 2, 3].map(member).to_vec();
        let change = Some(change);
        let order = command::ChangeMembers { base, change };
        match meta.apply(Kind::ChangeMembers(order), version, 1).0 {
            Outcome::Members(members) => members.iter().map(|m| m.raft_id).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn member(raft_id: u64) -> command::Member {
        command::Member {
            raft_id,
            cluster_address: "host:4436".to_owned(),
            drained: false,
        }
    }

    #[test]
    fn who_comes_back_after_a_removal_has_another_raft_id_each_time() {
        const ONCE: u64 = 1 << 16;
        let mut meta = Meta::default();
        assert_eq!(change(&mut meta, Change::Replace(3)), [1, 2, ONCE + 3]);
        assert_eq!(change(&mut meta, Change::Remove(3)), [1, 2]);
        assert_eq!(change(&mut meta, Change::Remove(3)), [1, 2], "again");
        // Also after a start from a checkpoint.
        let mut meta = Meta::decode(&meta.encode());
        assert_eq!(change(&mut meta, Change::Add(member(4))), [1, 2, 4]);
        let both = [1, 2, 2 * ONCE + 3, 4];
        assert_eq!(change(&mut meta, Change::Add(member(3))), both);
        assert_eq!(change(&mut meta, Change::Add(member(3))), both, "again");
        assert!(meta.encode().removed_raft_ids.is_empty());
        change(&mut meta, Change::Remove(3));
        assert_eq!(
            change(&mut meta, Change::Add(member(3))),
            [1, 2, 3 * ONCE + 3, 4]
        );
    }

    #[test]
    fn an_entry_of_before_means_what_it_meant() {
        let mut meta = Meta::default();
        change_in(1, &mut meta, Change::Remove(3));
        assert!(meta.encode().removed_raft_ids.is_empty());
        assert_eq!(change(&mut meta, Change::Add(member(3))), [1, 2, 3]);
    }

    #[test]
    fn a_checkpoint_that_knows_of_no_removed_nodes_is_read() {
        let before = MetaState {
            members: vec![checkpoint::Member {
                raft_id: 1,
                ..checkpoint::Member::default()
            }],
            ..MetaState::default()
        };
        let mut meta = Meta::decode(&before);
        assert_eq!(change(&mut meta, Change::Add(member(3))), [1, 3]);
    }

    #[test]
    fn buckets_have_a_bound() {
        let mut meta = Meta::default();
        for name in 0..BUCKETS_MAX {
            create(&mut meta, &name.to_string());
        }
        let refused = create(&mut meta, "demo");
        assert!(matches!(
            refused,
            (Outcome::Refused(Refusal::LimitReached { .. }), false)
        ));
        assert!(matches!(
            create(&mut meta, "7"),
            (Outcome::Bucket(_), false)
        ));
    }
}
