//! A segment of the log, damaged: recovery refuses it, or finds nothing that was never written.

use std::sync::OnceLock;

use bytes::Bytes;
use glommio::LocalExecutor;
use storage::wal::{self as log, IoMode, Record, Wal, WalConfig};

use crate::edits::{edited, put, scratch};

const STORE: [u8; 16] = [7; 16];
const RECORDS: u64 = 12;

struct Sound {
    name: String,
    segment: Vec<u8>,
}

/// Recovers a log from a segment with these edits.
pub fn wal(edits: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    let sound = SOUND.get_or_init(sound);
    let dir = scratch();
    put(dir.path(), &sound.name, edited(&sound.segment, edits));
    if let Ok(found) = log::recover(dir.path(), STORE, &|_| Ok(true), &mut |_, _| {}) {
        let records = found.groups.into_values().flatten();
        let mut count = 0;
        for (number, found) in records.enumerate() {
            let sound = record(number as u64);
            assert_eq!((found.index, found.payload), (sound.index, sound.payload));
            count += 1;
        }
        assert!(
            !edits.is_empty() || count == RECORDS,
            "a sound log ended early"
        );
    }
}

fn record(number: u64) -> Record {
    Record {
        kind: 1,
        group: 3,
        index: number + 1,
        term: 1,
        payload: Bytes::from(vec![number as u8; 100 * number as usize]),
    }
}

fn sound() -> Sound {
    let dir = scratch();
    let config = WalConfig {
        dir: dir.path().to_owned(),
        store_id: STORE,
        generation: 1,
        lane: 0,
        segment_bytes: 32 << 10,
        io_mode: IoMode::Buffered,
    };
    LocalExecutor::default().run(async move {
        let wal = Wal::open(config, &[]).await.expect("a tmpfs takes it");
        for number in 0..RECORDS {
            wal.buffer(&record(number)).expect("the log is sound");
            if number % 3 == 2 {
                wal.commit().await.expect("the log is sound");
            }
        }
    });
    let segment = std::fs::read_dir(dir.path()).expect("just made");
    let segment = segment
        .map(|e| e.expect("just made").path())
        .find(|p| p.extension().is_some_and(|e| e == "wal"))
        .expect("one segment");
    Sound {
        segment: std::fs::read(&segment).expect("just made"),
        name: segment
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned(),
    }
}
