//! Crash consistency of a checkpoint that is fetched: what gathering and exchanging it did to files is recorded, and after each
//! recorded act every state that a power cut may leave (`storage/src/tape/disk.rs`) is started from: the replica's own checkpoint is
//! there, or the fetched one, and from when that was said to be installed on, that one; with all its tables and packs.

use std::collections::BTreeMap;

use raftproto::checkpoint::StreamState;
use storage::pack::PackPlan;
use storage::tape::{self, Act, Step};

use super::super::checkpoint::cut::{GROUP, each_state, is_seen, planned};
use super::super::checkpoint::{pack_path, write};
use super::*;
use crate::protocol::Incarnation;

/// Bytes of a part.
const PART_BYTES: usize = 400;

/// What a checkpoint holds.
type Content = (BTreeMap<String, Vec<u8>>, Vec<u32>);

fn content(dir: &Path, manifest: &GroupManifest) -> Result<Content, StorageError> {
    Ok((read_tables(dir, manifest)?, manifest.packs.clone()))
}

/// Writes the next checkpoint: a pack, and one of three streams anew. Who has another `salt` has other bytes at the same place.
fn next(dir: &Path, before: GroupManifest, salt: u8) -> GroupManifest {
    let round = before.index + 1;
    let key = StreamKey::from_stored(&format!("b/{}", round % 3));
    let number = before.next_pack.max(1);
    let mut pack = PackPlan::new(GROUP, number);
    let piece = bytes::Bytes::from(vec![salt; 500 * (round as usize % 3) + 1]);
    pack.add(key.as_str(), Incarnation(1).0, 0, vec![piece]);
    let mut packs = before.packs.clone();
    packs.push(number);
    if packs.len() > 3 {
        packs.remove(0);
    }
    let state = StreamState {
        incarnation: 1,
        content_type: "text/plain".to_owned(),
        stream_seq: Some(format!("{salt}-{round:0300}")),
        ..StreamState::default()
    };
    let delta = vec![(key, Some(state.encode_to_vec()))];
    let plan = planned(round, delta, packs);
    write(&System, dir, GROUP, before, &plan, &pack).unwrap().0
}

/// Gathers a giver's checkpoint as [`Core::gather`] does, and puts it in the place of the own one.
fn fetch(giver: &Path, dir: &Path) {
    let root = incoming_dir(dir);
    std::fs::create_dir_all(group_dir(&root, GROUP)).unwrap();
    link_own(dir, &root, GROUP);
    let have = gathered(&root, GROUP);
    let bytes = framed::read(&manifest_path(giver, GROUP)).unwrap().unwrap();
    let mut files = Vec::new();
    for name in names(&GroupManifest::decode(bytes.clone()).unwrap()) {
        let path = group_dir(giver, GROUP).join(&name);
        let (length, hash) = hash_of(&path, &File::open(&path).unwrap()).unwrap();
        files.push(CheckpointFile { name, length, hash });
    }
    for file in files.iter().filter(|f| !have.contains(f)) {
        let all = std::fs::read(group_dir(giver, GROUP).join(&file.name)).unwrap();
        let own = std::fs::read(group_dir(&root, GROUP).join(&file.name));
        // What is there may be the beginning.
        let is_begun = own.as_ref().is_ok_and(|own| all.starts_with(own));
        let from = own.map_or(0, |own| if is_begun { own.len() } else { 0 });
        for (number, data) in all[from..].chunks(PART_BYTES).enumerate() {
            let part = CheckpointPart {
                name: file.name.clone(),
                position: (from + number * PART_BYTES) as u64,
                data: bytes::Bytes::copy_from_slice(data),
                ..CheckpointPart::default()
            };
            take_part(&root, GROUP, &part).unwrap();
        }
    }
    load(&root, GROUP, 2, &bytes, &files).unwrap();
    exchange(dir, GROUP).unwrap();
}

#[test]
fn whatever_a_power_cut_leaves_of_a_fetched_checkpoint_is_one_checkpoint() {
    is_one_checkpoint(None);
}

/// What this test sees: each step without which a fetched checkpoint may be damaged, or not be there when that was said.
#[test]
fn a_step_that_a_transfer_leaves_out_is_seen() {
    for step in [
        Step::FileSync("/incoming/groups/00007/pack-"),
        Step::FileSync("/incoming/groups/00007/table-"),
        Step::FileSync("/incoming/groups/00007/manifest"),
        Step::SyncBeforeName("/incoming/groups/00007/pack-"),
        Step::SyncBeforeName("/incoming/groups/00007/table-"),
        Step::DirSync("groups"),
    ] {
        is_seen(step, is_one_checkpoint);
    }
}

fn is_one_checkpoint(left_out: Option<Step>) {
    let giver = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (giver, dir) = (giver.path(), dir.path());
    for place in [giver, dir] {
        std::fs::create_dir_all(group_dir(place, GROUP)).unwrap();
    }
    let mut all = BTreeMap::from([(0, Content::default())]);
    let mut theirs = GroupManifest::default();
    let mut own = GroupManifest::default();
    tape::begin_without(dir, left_out);
    // The first is the same at both, the second is not; after the exchange the replica goes on by itself, and fetches again.
    for (salt, rounds) in [(1, 4), (2, 3)] {
        for round in 0..2 {
            own = next(dir, own, if round == 0 { salt } else { 99 });
            all.insert(own.index, content(dir, &own).unwrap());
            tape::note(dir, || Act::Mark(0, own.index));
        }
        for round in 0..rounds {
            theirs = next(
                giver,
                theirs,
                if salt == 2 && round == 0 { 99 } else { salt },
            );
        }
        all.insert(theirs.index, content(giver, &theirs).unwrap());
        fetch(giver, dir);
        tape::note(dir, || Act::Mark(0, theirs.index));
        own = theirs.clone();
    }
    check(dir, &tape::end(dir), &all);
}

/// Starts from all that may be left.
fn check(dir: &Path, tape: &[Act], all: &BTreeMap<u64, Content>) {
    let is_own = |path: &Path| path.starts_with(group_dir(dir, GROUP));
    let states = each_state((dir, tape), &is_own, &mut |place, disk, number| {
        let index = start(place, all)
            .unwrap_or_else(|e| panic!("after act {number} of {}: {e}", tape.len()));
        let durable = disk.marks.get(&0).copied().unwrap_or(0);
        assert!(
            index >= durable,
            "after act {number}: checkpoint {index}, and {durable} was durable"
        );
    });
    let exchanges = tape.iter().filter(|a| matches!(a, Act::Exchange(..)));
    assert_eq!(exchanges.count(), 2);
    assert!(states > 60, "{states} states of {} acts", tape.len());
}

/// The index of the checkpoint that is there, whole.
fn start(dir: &Path, all: &BTreeMap<u64, Content>) -> Result<u64, StorageError> {
    let Some(bytes) = framed::read(&manifest_path(dir, GROUP))? else {
        return Ok(0);
    };
    let manifest = GroupManifest::decode(bytes).expect("its checksum was right");
    assert_eq!(content(dir, &manifest)?, all[&manifest.index]);
    for pack in &manifest.packs {
        let found = storage::pack::verify(&pack_path(dir, GROUP, *pack))?;
        assert_eq!((found.group, found.number), (GROUP, *pack));
    }
    Ok(manifest.index)
}
