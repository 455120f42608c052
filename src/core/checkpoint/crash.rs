//! Crash consistency of checkpoints: what writing them did to their files is recorded, and after each recorded act every state
//! that a power cut may have left is made (`storage/src/tape/disk.rs`) and started from: the newest checkpoint that was
//! said to be durable is there, or a later one, with all its tables and packs.

use std::collections::BTreeMap;

use bytes::Bytes;
use storage::tape::{self, Act, Step};

use super::cut::{GROUP, each_state, is_seen, planned};
use super::*;

/// More than are joined into one base.
const ROUNDS: u64 = DELTAS_MAX as u64 + 6;

/// What a checkpoint holds: values by key, and its packs.
pub(super) type Expected = (BTreeMap<String, Vec<u8>>, Vec<u32>);

fn key(round: u64) -> StreamKey {
    StreamKey::from_stored(&format!("b/{}", round % 3))
}

/// Writes checkpoints; answers what each holds by its index.
fn live(dir: &Path) -> BTreeMap<u64, Expected> {
    let mut manifest = GroupManifest::default();
    let mut all = BTreeMap::new();
    all.insert(0, Expected::default());
    let mut streams = BTreeMap::new();
    let mut packs = Vec::new();
    for round in 1..=ROUNDS {
        let number = manifest.next_pack.max(1);
        let mut pack = PackPlan::new(GROUP, number);
        if round % 2 == 1 {
            let pieces = vec![Bytes::from(vec![
                round as u8;
                300 * (round as usize % 4) + 1
            ])];
            pack.add(key(round).as_str(), Incarnation(1).0, 0, pieces);
            packs.push(number);
        }
        if round % 5 == 0 {
            // Nothing refers to the oldest any more.
            packs.remove(0);
        }
        let value = (round % 4 != 0).then(|| vec![round as u8; 700]);
        match &value {
            Some(value) => streams.insert(key(round).as_str().to_owned(), value.clone()),
            None => streams.remove(key(round).as_str()),
        };
        let plan = planned(round, vec![(key(round), value)], packs.clone());
        all.insert(round, (streams.clone(), packs.clone()));
        manifest = write(&System, dir, GROUP, manifest, &plan, &pack)
            .unwrap()
            .0;
        tape::note(dir, || Act::Mark(0, round));
    }
    all
}

/// Starts from a directory of which `all` may be the checkpoint; answers the index of the checkpoint that it holds.
pub(super) fn start(dir: &Path, all: &BTreeMap<u64, Expected>) -> Result<u64, StorageError> {
    let manifest = match framed::read(&manifest_path(dir, GROUP))? {
        Some(bytes) => GroupManifest::decode(bytes).expect("its checksum was right"),
        None => GroupManifest {
            group: GROUP,
            ..GroupManifest::default()
        },
    };
    let (streams, packs) = &all[&manifest.index];
    assert_eq!(read_tables(dir, &manifest)?, *streams);
    assert_eq!(manifest.packs, *packs);
    sweep(dir, &manifest)?;
    for pack in packs {
        let found = storage::pack::verify(&pack_path(dir, GROUP, *pack))?;
        assert_eq!((found.group, found.number), (GROUP, *pack));
    }
    Ok(manifest.index)
}

#[test]
fn whatever_a_power_cut_leaves_of_a_checkpoint_is_one_checkpoint() {
    is_one_checkpoint(None);
}

/// What this test sees: each step without which a checkpoint may be damaged, or be another one than was said.
#[test]
fn a_step_that_a_checkpoint_leaves_out_is_seen() {
    for step in [
        Step::FileSync("/pack-"),
        Step::FileSync("/table-"),
        Step::FileSync("/manifest"),
        Step::SyncBeforeName("/manifest"),
        Step::DirSync("groups/00007"),
    ] {
        is_seen(step, is_one_checkpoint);
    }
}

fn is_one_checkpoint(left_out: Option<Step>) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::create_dir_all(group_dir(dir.path(), GROUP)).unwrap();
    tape::begin_without(dir.path(), left_out);
    let all = live(dir.path());
    let tape = tape::end(dir.path());
    let states = each_state(
        (dir.path(), &tape),
        &|_| true,
        &mut |place, disk, number| {
            let index = start(place, &all)
                .unwrap_or_else(|e| panic!("after act {number} of {}: {e}", tape.len()));
            let durable = disk.marks.get(&0).copied().unwrap_or(0);
            assert!(
                index >= durable,
                "after act {number}: checkpoint {index}, and {durable} was durable"
            );
        },
    );
    assert!(states > 300, "{states} states of {} acts", tape.len());
}
