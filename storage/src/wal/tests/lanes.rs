//! The life of a lane's segments: made, sealed, released, also over starts.

use super::*;

/// A record that fills most of a segment, so that each commit opens another.
fn large(group: u32, index: u64) -> Record {
    record(group, index, 50_000)
}

fn carried(group: u32) -> Record {
    Record {
        kind: CARRIED_KIND,
        ..record(group, 5, 8)
    }
}

/// One segment per record.
fn lane(dir: &Path, generation: u64, records: Vec<Record>) {
    let path = dir.to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, generation), &[]).await.unwrap();
        for record in records {
            wal.buffer(&record).unwrap();
            wal.commit().await.unwrap();
        }
    });
}

/// A start that recovers, and whose checkpoints then reach these (group, index).
fn start(dir: &Path, carry: Vec<Record>, checkpointed: &'static [(u32, u64)]) {
    let mut recovered = read(dir).unwrap();
    let pins = recovered.take_pins(&|_, _| true);
    let generation = recovered.generation + 1;
    let path = dir.to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, generation), &carry).await.unwrap();
        wal.adopt(pins);
        for (group, index) in checkpointed {
            wal.release(*group, *index);
        }
    });
}

fn names(dir: &Path, generation: u64) -> Vec<PathBuf> {
    let prefix = format!("{generation:010}-");
    let mut found = segments(dir);
    found.retain(|p| {
        let name = p.file_name().unwrap().to_str().unwrap();
        name.starts_with(&prefix)
    });
    found
}

fn free_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let is_free = |p: &PathBuf| p.extension().is_some_and(|e| e == "free");
    entries.map(|e| e.unwrap().path()).filter(is_free).count()
}

#[test]
fn segments_of_earlier_starts_go_oldest_first() {
    let dir = scratch();
    lane(dir.path(), 1, vec![large(2, 1), large(1, 1), large(2, 2)]);
    assert_eq!(segments(dir.path()).len(), 3);
    // Nobody needs the second one, but it stays as long as the first.
    start(dir.path(), Vec::new(), &[(1, 1)]);
    start(dir.path(), Vec::new(), &[(1, 1)]);
    assert_eq!(indexes(&read(dir.path()).unwrap(), 2), [1, 2]);
    start(dir.path(), Vec::new(), &[(1, 1), (2, 1)]);
    assert_eq!(indexes(&read(dir.path()).unwrap(), 2), [2]);
    assert_eq!(names(dir.path(), 1).len(), 1);
    start(dir.path(), Vec::new(), &[(1, 1), (2, 2)]);
    assert_eq!(names(dir.path(), 1).len(), 0);
}

#[test]
fn a_segment_that_cannot_go_keeps_those_after_it() {
    let dir = scratch();
    lane(dir.path(), 1, vec![large(1, 1), large(1, 2), large(1, 3)]);
    let mut recovered = read(dir.path()).unwrap();
    let pins = recovered.take_pins(&|_, _| true);
    let first = segments(dir.path()).remove(0);
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    pins.into_iter().for_each(legacy::Pin::release);
    assert_eq!(segments(dir.path()).len(), 3);
}

#[test]
fn a_start_that_fails_deletes_nothing() {
    let dir = scratch();
    lane(dir.path(), 1, vec![large(1, 1), large(1, 2)]);
    let mut recovered = read(dir.path()).unwrap();
    drop(recovered.take_pins(&|_, index| index > 1));
    assert_eq!(indexes(&read(dir.path()).unwrap(), 1), [1, 2]);
}

#[test]
fn what_earlier_starts_carry_stands_in_the_new_lane_before_they_go() {
    let dir = scratch();
    lane(dir.path(), 1, vec![carried(9), large(1, 1)]);
    let mut recovered = read(dir.path()).unwrap();
    // A crash before the new lane has it: nothing is gone, though no entry is needed.
    let pins = recovered.take_pins(&|_, _| false);
    assert_eq!(read(dir.path()).unwrap().groups[&9], [carried(9)]);
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 2), &[carried(9)]).await.unwrap();
        wal.adopt(pins);
    });
    assert_eq!(names(dir.path(), 1).len(), 0);
    assert_eq!(read(dir.path()).unwrap().groups[&9], [carried(9)]);
}

/// What a crash now would leave.
fn after_crash(dir: &Path) -> Recovered {
    let copy = scratch();
    for path in segments(dir) {
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    read(copy.path()).unwrap()
}

#[test]
fn a_full_segment_stays_until_what_it_carries_is_on_disk_again() {
    let dir = scratch();
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[carried(9)]).await.unwrap();
        wal.set_carry(Box::new(|| vec![carried(9)]));
        wal.buffer(&large(1, 1)).unwrap();
        wal.commit().await.unwrap();
        wal.buffer(&large(1, 2)).unwrap();
        let is_done = std::cell::Cell::new(false);
        let releases = async {
            while !is_done.get() {
                wal.release(1, 1);
                assert!(after_crash(&path).groups.contains_key(&9));
                glommio::timer::sleep(std::time::Duration::from_micros(50)).await;
            }
        };
        let commit = async {
            wal.commit().await.unwrap();
            is_done.set(true);
        };
        futures_lite::future::zip(commit, releases).await;
        assert_eq!(indexes(&after_crash(&path), 1), [2]);
    });
}

#[test]
fn a_frame_above_the_usual_size_leaves_the_prepared_file_for_the_next() {
    let dir = scratch();
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        let settle = std::time::Duration::from_millis(200);
        glommio::timer::sleep(settle).await;
        assert_eq!(free_files(&path), 1);
        for (index, len) in [(1, 10), (2, 100_000), (3, 100_000)] {
            wal.buffer(&record(1, index, len)).unwrap();
            wal.commit().await.unwrap();
        }
        glommio::timer::sleep(settle).await;
        assert_eq!(free_files(&path), 1);
    });
}

#[test]
fn without_room_for_a_segment_nothing_is_lost_and_a_later_commit_succeeds() {
    let dir = scratch();
    let path = dir.path().to_owned();
    // The second file is the one that is prepared beside the appends, the third that of the switch.
    let names = ["2", "3"].map(|n| path.join(format!("0000000001-000-{n}.free")));
    for name in &names {
        std::os::unix::fs::symlink("/dev/full", name).unwrap();
    }
    on_executor(move || async move {
        let buffered = WalConfig {
            io_mode: IoMode::Buffered,
            ..config(&path, 1)
        };
        let wal = Wal::open(buffered, &[]).await.unwrap();
        wal.set_carry(Box::new(|| vec![carried(9)]));
        wal.buffer(&large(1, 1)).unwrap();
        wal.commit().await.unwrap();
        wal.buffer(&large(1, 2)).unwrap();
        glommio::timer::sleep(std::time::Duration::from_millis(100)).await;
        let error = wal.commit().await.unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        assert_eq!(free_files(&path), 0, "what could not be filled is removed");
        wal.buffer(&record(2, 7, 10)).unwrap();
        let committed = wal.commit().await.unwrap();
        assert_eq!(committed.records, 3);
        wal.close().await.unwrap();
    });
    let recovered = read(dir.path()).unwrap();
    assert_eq!(indexes(&recovered, 1), [1, 2]);
    assert_eq!(indexes(&recovered, 2), [7]);
}

#[test]
fn a_lane_without_room_for_a_segment_says_so_before_the_last_one_is_full_and_ends_without_what_found_none()
 {
    let dir = scratch();
    let path = dir.path().to_owned();
    // Every file but the first.
    for number in 2..20 {
        let name = path.join(format!("0000000001-000-{number}.free"));
        std::os::unix::fs::symlink("/dev/full", name).unwrap();
    }
    on_executor(move || async move {
        let buffered = WalConfig {
            io_mode: IoMode::Buffered,
            ..config(&path, 1)
        };
        let wal = Wal::open(buffered, &[]).await.unwrap();
        glommio::timer::sleep(std::time::Duration::from_millis(100)).await;
        assert!(!wal.is_short_of_room(), "most of the segment is left");
        wal.buffer(&large(1, 1)).unwrap();
        wal.commit().await.unwrap();
        assert!(wal.is_short_of_room());
        wal.look_for_room();
        wal.buffer(&record(1, 2, 10)).unwrap();
        wal.commit().await.unwrap();
        wal.buffer(&large(1, 3)).unwrap();
        let error = wal.commit().await.unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        assert_eq!(wal.close().await.unwrap(), 1, "the long one");
    });
    assert_eq!(indexes(&read(dir.path()).unwrap(), 1), [1, 2]);
}

#[test]
fn a_commit_after_the_end_is_refused_and_one_before_it_is_waited_for() {
    let dir = scratch();
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        wal.buffer(&record(1, 1, 10)).unwrap();
        let before = async { wal.commit().await.unwrap() };
        let late = async {
            assert!(matches!(
                wal.buffer(&record(1, 2, 10)),
                Err(StorageError::Poisoned)
            ));
            wal.commit().await
        };
        let end = futures_lite::future::zip(wal.close(), late);
        let (_, (closed, late)) = futures_lite::future::zip(before, end).await;
        closed.unwrap();
        assert!(matches!(late, Err(StorageError::Poisoned)));
    });
    let recovered = read(dir.path()).unwrap();
    assert_eq!(indexes(&recovered, 1), [1]);
}
