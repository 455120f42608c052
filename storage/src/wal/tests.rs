//! What a crash or a bad disk does to a log, exhaustively for a small one.

mod crash;
mod lanes;
mod log_thread;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};

use super::*;
use crate::StorageError;

const STORE: [u8; 16] = *b"0123456789abcdef";

fn config(dir: &Path, generation: u64) -> WalConfig {
    WalConfig {
        dir: dir.to_owned(),
        store_id: STORE,
        generation,
        lane: 0,
        segment_bytes: 64 << 10,
        io_mode: if has_direct_io(dir).unwrap() {
            IoMode::Direct
        } else {
            IoMode::Buffered
        },
    }
}

fn record(group: u32, index: u64, len: usize) -> Record {
    Record {
        kind: 1,
        group,
        index,
        term: 1,
        payload: Bytes::from(vec![index as u8; len]),
    }
}

fn on_executor<F: Future<Output = ()> + 'static>(run: impl FnOnce() -> F + Send + 'static) {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(64 << 10)
        .spawn(move || async move { run().await })
        .unwrap()
        .join()
        .unwrap();
}

/// On a real filesystem, since tmpfs hides alignment mistakes.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

/// Whether a log of this mode can be written there. Where all has to be tested, one that cannot has failed.
fn can_write(dir: &Path, mode: IoMode) -> bool {
    let can = mode == IoMode::Buffered || has_direct_io(dir).unwrap();
    if !can {
        assert!(
            std::env::var_os("URSULA_TEST_NO_SKIPS").is_none(),
            "{mode:?} may not be skipped here: {} has no direct I/O",
            dir.display()
        );
        println!("skipped: {mode:?}, without direct I/O");
    }
    can
}

fn read(dir: &Path) -> Result<Recovered, StorageError> {
    recover(dir, STORE, &|_| Ok(true), &mut |_, _| {})
}

fn indexes(recovered: &Recovered, group: u32) -> Vec<u64> {
    recovered
        .groups
        .get(&group)
        .map_or_else(Vec::new, |records| {
            records.iter().map(|r| r.index).collect()
        })
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "wal"));
    found.sort();
    found
}

/// Three commits, the last not followed by a clean end.
fn small_log(dir: &Path, is_closed: bool) {
    let path = dir.to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        for index in 1..=3 {
            wal.buffer(&record(1, index, 100)).unwrap();
            wal.buffer(&record(2, index, 700)).unwrap();
            wal.commit().await.unwrap();
        }
        if is_closed {
            wal.close().await.unwrap();
        }
    });
}

/// Where the frames begin, and where the last one ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let header = segment::SegmentHeader::decode(bytes).unwrap();
    let (nonce, alignment) = (header.nonce, header.alignment as usize);
    let mut position = segment::HEADER_BYTES;
    let mut found = vec![position];
    while let Some(frame) = segment::read_frame(&bytes[position..], nonce, alignment) {
        position += frame.total;
        found.push(position);
    }
    found
}

#[test]
fn what_was_committed_is_read_back_in_order() {
    let dir = scratch();
    small_log(dir.path(), false);
    let recovered = read(dir.path()).unwrap();
    assert_eq!(indexes(&recovered, 1), [1, 2, 3]);
    assert_eq!(recovered.groups[&2][1], record(2, 2, 700));
    assert!(recovered.torn.is_empty());
    assert_eq!(recovered.generation, 1);
}

#[test]
fn a_log_torn_at_every_byte_of_its_last_frame_recovers() {
    let dir = scratch();
    small_log(dir.path(), false);
    let path = segments(dir.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    let found = frames(&good);
    let (from, to) = (found[2], found[3]);
    for cut in from..to {
        let mut torn = good.clone();
        torn[cut..to].fill(0);
        std::fs::write(&path, &torn).unwrap();
        let recovered = read(dir.path()).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let is_whole = torn == good;
        assert_eq!(
            indexes(&recovered, 1).len(),
            if is_whole { 3 } else { 2 },
            "cut at {cut}"
        );
    }
}

#[test]
fn one_flipped_bit_anywhere_before_the_last_frame_is_named() {
    let dir = scratch();
    small_log(dir.path(), true);
    let path = segments(dir.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    let found = frames(&good);
    // Three data frames and the clean end: damage to the last data frame is found too.
    assert_eq!(found.len(), 5);
    for byte in 0..found[3] {
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        std::fs::write(&path, &bad).unwrap();
        let error = read(dir.path())
            .err()
            .unwrap_or_else(|| panic!("byte {byte} was not noticed"));
        let text = error.to_string();
        assert!(
            text.contains("damaged at byte") || text.contains("belongs to another"),
            "{text}"
        );
        assert!(text.contains("0000000001-000-0000000001.wal"), "{text}");
    }
}

#[test]
fn released_segments_are_recycled_and_a_missing_one_is_named() {
    let dir = scratch();
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        let carried = Rc::new(RefCell::new(0));
        let count = carried.clone();
        wal.set_carry(Box::new(move || {
            *count.borrow_mut() += 1;
            vec![Record {
                kind: CARRIED_KIND,
                ..record(9, 5, 8)
            }]
        }));
        for index in 1..=40 {
            wal.buffer(&record(1, index, 10_000)).unwrap();
            wal.commit().await.unwrap();
            if index == 20 {
                assert!(wal.pinned().segments > 3);
                assert_eq!(wal.pinned().oldest_needed_by, [1]);
                wal.release(1, 15);
                assert!(wal.pinned().segments <= 3);
            }
        }
        assert!(*carried.borrow() >= 6);
    });
    let recovered = read(dir.path()).unwrap();
    let kept = indexes(&recovered, 1);
    assert_eq!(kept.last(), Some(&40));
    assert!(kept[0] > 1 && kept[0] <= 16, "{}", kept[0]);
    assert!(!recovered.groups[&9].is_empty());
    drop(recovered);
    let removed = segments(dir.path()).remove(2);
    std::fs::remove_file(&removed).unwrap();
    let text = read(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains("the segment is missing") && text.contains(removed.to_str().unwrap()),
        "{text}"
    );
}

#[test]
fn a_record_larger_than_a_segment_gets_a_larger_segment() {
    let dir = scratch();
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        for (index, len) in [(1, 10), (2, 300_000), (3, 10)] {
            wal.buffer(&record(1, index, len)).unwrap();
            wal.commit().await.unwrap();
        }
    });
    let recovered = read(dir.path()).unwrap();
    assert_eq!(indexes(&recovered, 1), [1, 2, 3]);
    assert_eq!(recovered.groups[&1][1].payload.len(), 300_000);
}

#[test]
fn large_payloads_lie_between_the_small_ones_where_they_were_put() {
    let dir = scratch();
    let path = dir.path().to_owned();
    let sizes = [10, 3 << 20, 0, 300_000, 300_000, 7, 1 << 20];
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        wal.set_carry(Box::new(|| vec![record(9, 1, 5)]));
        // The first commit needs another segment and goes behind what that carries.
        for last in [7, 2] {
            for (index, len) in (1..=last).zip(sizes) {
                wal.buffer(&record(last as u32, index, len)).unwrap();
            }
            let (all, meanwhile) = futures_lite::future::zip(wal.commit(), async {
                wal.buffer(&record(100 + last as u32, 1, 400_000)).unwrap();
            })
            .await;
            assert_eq!((all.unwrap().records > 0, meanwhile), (true, ()));
        }
        wal.commit().await.unwrap();
    });
    let recovered = read(dir.path()).unwrap();
    for (group, count) in [(7, 7), (2, 2), (107, 1), (102, 1)] {
        let records = &recovered.groups[&group];
        assert_eq!(records.len(), count, "{group}");
        for (at, record) in records.iter().enumerate() {
            let len = if group > 100 { 400_000 } else { sizes[at] };
            assert!(
                record.payload.len() == len && record.payload.iter().all(|b| *b == at as u8 + 1)
            );
        }
    }
}

#[test]
fn a_segment_that_is_not_as_it_was_made_is_named() {
    let dir = scratch();
    small_log(dir.path(), false);
    let path = segments(dir.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    let found = frames(&good);
    let mut longer = good.clone();
    longer.push(0);
    let mut headless = good.clone();
    headless[..512].fill(0);
    let cases = [
        (&good[..0], 0),
        (&good[..100], 0),
        (&good[..segment::HEADER_BYTES], segment::HEADER_BYTES),
        (&good[..found[2]], found[2]),
        (&good[..good.len() - 1], good.len() - 1),
        (&longer[..], good.len()),
        (&headless[..], 0),
    ];
    for (bytes, offset) in cases {
        std::fs::write(&path, bytes).unwrap();
        match read(dir.path()) {
            Err(StorageError::Corrupt {
                path: named,
                offset: at,
                ..
            }) => assert_eq!((named, at), (path.clone(), offset as u64)),
            other => panic!("{} bytes: {other:?}", bytes.len()),
        }
    }
}

#[test]
fn a_segment_of_a_newer_version_is_refused() {
    let dir = scratch();
    small_log(dir.path(), false);
    let path = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] += 1;
    let end = segment::HEADER_BYTES - 4;
    let crc = crc32c::crc32c(&bytes[..end]).to_le_bytes();
    bytes[end..end + 4].copy_from_slice(&crc);
    std::fs::write(&path, &bytes).unwrap();
    let error = read(dir.path()).unwrap_err();
    assert!(
        matches!(error, StorageError::NewerVersion { found: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_record_that_its_reader_refuses_is_named() {
    let dir = scratch();
    small_log(dir.path(), false);
    let path = segments(dir.path()).remove(0);
    let second = frames(&std::fs::read(&path).unwrap())[1];
    let keep = |record: &RecordRef<'_>| match record.index {
        2 => Err("not what a record of this kind is"),
        _ => Ok(true),
    };
    let error = recover(dir.path(), STORE, &keep, &mut |_, _| {}).unwrap_err();
    let text = error.to_string();
    let expected = format!("{} is damaged at byte {second}: not what", path.display());
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn a_torn_body_that_holds_a_frame_is_still_a_torn_tail() {
    let dir = scratch();
    small_log(dir.path(), false);
    let path = segments(dir.path()).remove(0);
    let alignment = {
        let bytes = std::fs::read(&path).unwrap();
        segment::SegmentHeader::decode(&bytes).unwrap().alignment as usize
    };
    std::fs::remove_file(&path).unwrap();
    // What a client could know: generation, lane, sequence.
    let guessed = (1 << 40) | 1;
    let mut frame = vec![0; alignment];
    let header = segment::FrameHeader {
        nonce: guessed,
        number: 9,
        chain: 0,
        records: 0,
        flags: 0,
    };
    segment::seal(
        &mut frame,
        header,
        (alignment - segment::FRAME_BYTES) as u32,
    );
    let mut body = vec![b'x'; alignment - segment::FRAME_BYTES - 25];
    body.extend_from_slice(&frame);
    let own = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&own, 1), &[]).await.unwrap();
        let payload = Bytes::from(body);
        wal.buffer(&Record {
            payload,
            ..record(1, 1, 0)
        })
        .unwrap();
        wal.commit().await.unwrap();
    });
    let path = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let second = segment::HEADER_BYTES + alignment;
    let nonce = segment::SegmentHeader::decode(&bytes).unwrap().nonce;
    assert_ne!(nonce, guessed);
    assert!(segment::read_frame(&bytes[second..], guessed, alignment).is_some());
    bytes[segment::HEADER_BYTES..second].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(indexes(&read(dir.path()).unwrap(), 1), Vec::<u64>::new());
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let dir = scratch();
    small_log(dir.path(), false);
    let error = recover(dir.path(), [7; 16], &|_| Ok(true), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { .. }));
}

#[test]
fn segments_of_earlier_starts_go_when_nobody_needs_them() {
    let dir = scratch();
    small_log(dir.path(), false);
    let mut recovered = read(dir.path()).unwrap();
    let pins = recovered.take_pins(&|group, index| group == 2 && index > 1);
    assert_eq!(
        pins.iter().map(|p| (p.group, p.index)).collect::<Vec<_>>(),
        [(1, 0), (2, 3)]
    );
    assert_eq!(segments(dir.path()).len(), 1);
    pins.into_iter().for_each(legacy::Pin::release);
    assert_eq!(segments(dir.path()).len(), 0);
}

#[test]
fn on_tmpfs_the_log_works_too() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    assert!(!has_direct_io(dir.path()).unwrap());
    small_log(dir.path(), true);
    assert_eq!(indexes(&read(dir.path()).unwrap(), 2), [1, 2, 3]);
}

#[test]
fn after_a_failed_write_the_log_stays_stopped() {
    let dir = scratch();
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let wal = Wal::open(config(&path, 1), &[]).await.unwrap();
        // Without its directory the log cannot name the next segment.
        std::fs::remove_dir_all(&path).unwrap();
        let mut failed = None;
        for index in 1..=20 {
            wal.buffer(&record(1, index, 10_000)).unwrap();
            if let Err(error) = wal.commit().await {
                failed = Some(error);
                break;
            }
        }
        assert!(
            matches!(failed, Some(StorageError::Io { .. })),
            "{failed:?}"
        );
        assert!(matches!(wal.commit().await, Err(StorageError::Poisoned)));
        assert!(matches!(
            wal.buffer(&record(1, 99, 1)),
            Err(StorageError::Poisoned)
        ));
        std::fs::create_dir_all(&path).unwrap();
    });
}
