//! Files of a data directory, damaged. The first byte of the input chooses the file, the rest are edits of a sound
//! one: whatever was done to it, its reader refuses it or finds nothing that was never written.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use glommio::LocalExecutor;
use storage::wal::{self, IoMode, Record, Wal, WalConfig};
use storage::{framed, table};

const STORE: [u8; 16] = [7; 16];
const SEGMENT: &str = "segment";
const RECORDS: u64 = 12;

struct Sound {
    table: Vec<u8>,
    framed: Vec<u8>,
    segment: Vec<u8>,
    segment_name: String,
}

/// Reads a damaged file of a data directory.
pub fn files(data: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    let sound = SOUND.get_or_init(sound);
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let dir = scratch();
    let dir = dir.path();
    match choice % 3 {
        0 => {
            let path = put(dir, "table", edited(&sound.table, edits));
            let mut next = 0;
            let read = table::read(&path, &mut |key, value| {
                assert_eq!((key, value), (&entry(next).0[..], entry(next).1.as_deref()));
                next += 1;
                Ok(())
            });
            assert!(read.is_err() || next == RECORDS, "a table ended early");
        }
        1 => {
            let path = put(dir, "framed", edited(&sound.framed, edits));
            if let Ok(content) = framed::read(&path) {
                assert_eq!(content.expect("it is there"), &entry(1).0[..]);
            }
        }
        _ => {
            put(dir, &sound.segment_name, edited(&sound.segment, edits));
            if let Ok(found) = wal::recover(dir, STORE, &|_| Ok(true), &mut |_, _| {}) {
                let records = found.groups.into_values().flatten();
                for (number, found) in records.enumerate() {
                    let sound = record(number as u64);
                    assert_eq!((found.index, found.payload), (sound.index, sound.payload));
                }
            }
        }
    }
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a tmpfs")
}

fn put(dir: &Path, name: &str, bytes: Vec<u8>) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("a tmpfs takes it");
    path
}

/// Edits are four bytes each: where (two), what, and a byte: put it, flip it, cut there, or copy the next block on.
fn edited(sound: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for edit in edits.as_chunks::<4>().0 {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
        match edit[2] % 4 {
            0 => bytes[at] = edit[3],
            1 => bytes[at] ^= edit[3],
            2 => bytes.truncate(at),
            _ => {
                let from = at / 512 * 512;
                let len = 512.min(bytes.len() - from);
                let to = usize::from(edit[3]) * 512 % bytes.len() / 512 * 512;
                let len = len.min(bytes.len() - to);
                bytes.copy_within(from..from + len, to);
            }
        }
    }
    bytes
}

fn entry(number: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = format!("stream {number:04}").into_bytes();
    let value = (number % 5 != 4).then(|| vec![number as u8; 40 * number as usize]);
    (key, value)
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
    let dir = dir.path();
    let entries: Vec<_> = (0..RECORDS).map(entry).collect();
    let entries = entries.iter().map(|(k, v)| (&k[..], v.as_deref()));
    table::write(&dir.join("table"), entries).expect("a tmpfs takes it");
    framed::write_atomic(&dir.join("framed"), &entry(1).0).expect("a tmpfs takes it");
    let log = dir.join(SEGMENT);
    std::fs::create_dir(&log).expect("a tmpfs takes it");
    let config = WalConfig {
        dir: log.clone(),
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
    let segment = std::fs::read_dir(&log).expect("just made");
    let segment = segment
        .map(|e| e.expect("just made").path())
        .find(|p| p.extension().is_some_and(|e| e == "wal"))
        .expect("one segment");
    let read = |path: &Path| std::fs::read(path).expect("just made");
    Sound {
        table: read(&dir.join("table")),
        framed: read(&dir.join("framed")),
        segment: read(&segment),
        segment_name: segment
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_file_is_read_whole() {
        for choice in 0..3 {
            files(&[choice]);
        }
        let sound = sound();
        let dir = scratch();
        put(dir.path(), &sound.segment_name, sound.segment);
        let found = wal::recover(dir.path(), STORE, &|_| Ok(true), &mut |_, _| {}).unwrap();
        assert_eq!(found.groups[&3].len() as u64, RECORDS);
    }
}
