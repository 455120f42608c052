//! What the tests of power cuts share: checkpoints as groups plan them, and starts from all that may be left.

use std::path::Path;

use storage::tape::{Act, Disk, Step};

use super::*;
use crate::group::{LogPosition, SavedHardState};

/// The group of these tests.
pub(in crate::core) const GROUP: u32 = 7;

/// A checkpoint at an index, as its group would plan it.
pub(in crate::core) fn planned(
    index: u64,
    delta: Vec<(StreamKey, Option<Vec<u8>>)>,
    packs: Vec<u32>,
) -> CheckpointPlan {
    CheckpointPlan {
        position: LogPosition { index, term: 1 },
        membership: Default::default(),
        hard_state: SavedHardState::default(),
        delta,
        group_state: Vec::new(),
        packs,
        version: raftproto::version::CHECKPOINT,
    }
}

/// Makes each state that a power cut may leave of what `counts` below a directory, in a place of its own, and has it checked.
/// Answers how many there were.
pub(in crate::core) fn each_state(
    (dir, tape): (&Path, &[Act]),
    counts: &dyn Fn(&Path) -> bool,
    check: &mut dyn FnMut(&Path, &Disk, usize),
) -> usize {
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut disk = Disk::default();
    let mut states = 0;
    for (number, act) in tape.iter().enumerate() {
        disk.take(act);
        disk.states(number as u64, counts, &mut |files| {
            states += 1;
            let dirs: BTreeSet<&Path> =
                files.iter().filter_map(|(path, _)| path.parent()).collect();
            let there = |path: &Path| place.path().join(path.strip_prefix(dir).unwrap());
            for dir in &dirs {
                std::fs::create_dir_all(there(dir)).unwrap();
            }
            for (path, bytes) in &files {
                std::fs::write(there(path), bytes).unwrap();
            }
            check(place.path(), &disk, number);
            for dir in &dirs {
                for entry in std::fs::read_dir(there(dir)).unwrap() {
                    std::fs::remove_file(entry.unwrap().path()).unwrap();
                }
            }
        });
    }
    states
}

/// Runs a test without a step; it has to say that something is damaged or lost.
pub(in crate::core) fn is_seen(
    without: Step,
    test: impl FnOnce(Option<Step>) + std::panic::UnwindSafe,
) {
    let seen = std::panic::catch_unwind(|| test(Some(without)));
    let said = seen.expect_err(&format!("nothing was lost without {without:?}"));
    let said = said.downcast::<String>().expect("it has arguments");
    let is_it = [" lost ", " is damaged ", " was durable"]
        .iter()
        .any(|word| said.contains(word));
    assert!(is_it, "{without:?}: {said}");
}
