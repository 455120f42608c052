//! Crash consistency of a core's log and a group's checkpoints together, on one tape: what the log let go since a checkpoint has
//! it is in the checkpoint that a start finds, whichever state a power cut leaves of both.

use std::collections::BTreeMap;

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};
use storage::tape::{self, Act, Step};
use storage::wal::{IoMode, Record, Recovered, Wal, WalConfig, recover};

use super::crash::{Expected, start};
use super::cut::{GROUP, each_state, is_seen, planned};
use super::*;

const STORE: [u8; 16] = *b"0123456789abcdef";

/// Another group of the core, whose checkpoints are elsewhere.
const OTHER: u32 = 8;

/// Entries of each start.
const ENTRIES: u64 = 10;

/// Marks beside the last index that was acknowledged to a group.
const CHECKPOINT: u64 = 1 << 32;
const OTHERS_RELEASE: u64 = CHECKPOINT + 1;

fn record(group: u32, index: u64) -> Record {
    // Three fill a segment, every other one by itself is of a few sectors.
    let len = 300 + 20_000 * (index as usize % 2);
    Record {
        kind: 1,
        group,
        index,
        term: 1,
        payload: Bytes::from(vec![index as u8; len]),
    }
}

fn read(dir: &Path) -> Result<Recovered, StorageError> {
    recover(&dir.join("wal"), STORE, &|_| Ok(true), &mut |_, _| {})
}

/// What of the log is in a checkpoint goes after it, as [`Core::checkpoint_group`] has it; or, wrongly, before.
#[derive(Clone, Copy, PartialEq)]
enum Release {
    After,
    Before,
}

/// Two starts of a core: appends, and checkpoints that let segments go. Answers what each checkpoint holds.
fn live(dir: &Path, release: Release) -> BTreeMap<u64, Expected> {
    let mut all = BTreeMap::from([(0, Expected::default())]);
    for generation in 1..=2 {
        let pins = read(dir).unwrap().take_pins(&|_, _| true);
        let (dir, mut known) = (dir.to_owned(), all.clone());
        let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
        let work = move || async move {
            let config = WalConfig {
                dir: dir.join("wal"),
                store_id: STORE,
                generation,
                lane: 0,
                segment_bytes: 64 << 10,
                io_mode: IoMode::Buffered,
            };
            let wal = Wal::open(config, &[]).await.unwrap();
            wal.adopt(pins);
            let own = framed::read(&manifest_path(&dir, GROUP)).unwrap();
            let mut manifest = own.map_or_else(GroupManifest::default, |bytes| {
                GroupManifest::decode(bytes).unwrap()
            });
            let mark = |what, value| tape::note(&dir, || Act::Mark(what, value));
            for index in (generation - 1) * ENTRIES + 1..=generation * ENTRIES {
                for group in [GROUP, OTHER] {
                    wal.buffer(&record(group, index)).unwrap();
                }
                wal.commit().await.unwrap();
                for group in [GROUP, OTHER] {
                    mark(u64::from(group), index);
                }
                if index % 3 == 0 {
                    mark(OTHERS_RELEASE, index);
                    wal.release(OTHER, index);
                    if release == Release::Before {
                        wal.release(GROUP, index);
                    }
                    manifest = checkpoint(&dir, manifest, index, &mut known);
                    mark(CHECKPOINT, index);
                    wal.release(GROUP, index);
                }
                glommio::yield_if_needed().await;
            }
            known
        };
        all = executor.spawn(work).unwrap().join().unwrap();
    }
    all
}

/// Writes a checkpoint with a pack and a changed stream.
fn checkpoint(
    dir: &Path,
    before: GroupManifest,
    index: u64,
    all: &mut BTreeMap<u64, Expected>,
) -> GroupManifest {
    let (mut streams, mut packs) = all[&before.index].clone();
    let key = StreamKey::from_stored(&format!("b/{}", index % 2));
    let number = before.next_pack.max(1);
    let mut pack = PackPlan::new(GROUP, number);
    let piece = Bytes::from(vec![index as u8; 700]);
    pack.add(key.as_str(), Incarnation(1).0, 0, vec![piece]);
    packs.push(number);
    if packs.len() > 2 {
        packs.remove(0);
    }
    let value = vec![index as u8; 900];
    streams.insert(key.as_str().to_owned(), value.clone());
    let plan = planned(index, vec![(key, Some(value))], packs.clone());
    all.insert(index, (streams, packs));
    let written = write(&System, dir, GROUP, before, &plan, &pack);
    written.unwrap().0
}

#[test]
fn whatever_a_power_cut_leaves_of_log_and_checkpoint_has_all_that_was_acknowledged() {
    has_all(None, Release::After);
}

/// What this test sees.
#[test]
fn a_step_that_is_left_out_where_the_log_lets_go_is_seen() {
    for step in [
        Step::FileSync("/pack-"),
        Step::FileSync("/table-"),
        Step::FileSync("/manifest"),
        Step::SyncBeforeName("/manifest"),
        Step::DirSync("groups/00007"),
        Step::RingSync,
        Step::SegmentName,
    ] {
        is_seen(step, |step| has_all(step, Release::After));
    }
    let seen = std::panic::catch_unwind(|| has_all(None, Release::Before));
    let said = seen.expect_err("nothing was lost").downcast::<String>();
    let said = said.expect("it has arguments");
    assert!(said.contains(" lost "), "{said}");
}

fn has_all(left_out: Option<Step>, release: Release) {
    println!("without {left_out:?}");
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = dir.path();
    for made in [dir.join("wal"), group_dir(dir, GROUP)] {
        std::fs::create_dir_all(made).unwrap();
    }
    tape::begin_without(dir, left_out);
    let all = live(dir, release);
    let tape = tape::end(dir);
    let counts = |path: &Path| {
        path.starts_with(group_dir(dir, GROUP)) || path.extension().is_some_and(|e| e == "wal")
    };
    let states = each_state((dir, &tape), &counts, &mut |place, disk, number| {
        std::fs::create_dir_all(place.join("wal")).unwrap();
        let mark = |what: u64| disk.marks.get(&what).copied().unwrap_or(0);
        let index = start(place, &all)
            .unwrap_or_else(|e| panic!("after act {number} of {}: {e}", tape.len()));
        let durable = mark(CHECKPOINT);
        assert!(
            index >= durable,
            "after act {number}: checkpoint {index}, and {durable} was durable"
        );
        let recovered =
            read(place).unwrap_or_else(|e| panic!("after act {number} of {}: {e}", tape.len()));
        for (group, has) in [(GROUP, index), (OTHER, mark(OTHERS_RELEASE))] {
            let records = recovered.groups.get(&group).into_iter().flatten();
            let found: BTreeMap<u64, &Record> = records.map(|r| (r.index, r)).collect();
            let acknowledged = mark(u64::from(group));
            for wanted in has + 1..=acknowledged {
                let is_there = found.get(&wanted) == Some(&&record(group, wanted));
                assert!(
                    is_there,
                    "after act {number}: group {group} lost {wanted} of {acknowledged}, its checkpoint has {has}"
                );
            }
        }
    });
    let removed = |act: &&Act| matches!(act, Act::Rename(from, _) | Act::Remove(from) if from.extension().is_some_and(|e| e == "wal"));
    let removed = tape.iter().filter(removed).count();
    println!(
        "{states} states of {} acts, {removed} segments went",
        tape.len()
    );
    assert!(states > 1000, "{states} states of {} acts", tape.len());
    assert!(removed >= 5, "only {removed} segments went");
}
