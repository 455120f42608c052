//! The other files of a data directory, damaged: a state table and a framed file, such as a manifest. The first byte of the
//! input chooses the file, the rest are edits: its reader refuses it or finds what was written.

use std::path::Path;
use std::sync::OnceLock;

use storage::{framed, table};

use crate::edits::{edited, put, scratch};

const ENTRIES: u64 = 12;

struct Sound {
    table: Vec<u8>,
    framed: Vec<u8>,
}

/// Reads a damaged file.
pub fn tables(data: &[u8]) {
    static SOUND: OnceLock<Sound> = OnceLock::new();
    let sound = SOUND.get_or_init(sound);
    let Some((choice, edits)) = data.split_first() else {
        return;
    };
    let dir = scratch();
    let dir = dir.path();
    if choice % 2 == 0 {
        let path = put(dir, "table", edited(&sound.table, edits));
        let mut next = 0;
        let read = table::read(&path, &mut |key, value| {
            assert_eq!((key, value), (&entry(next).0[..], entry(next).1.as_deref()));
            next += 1;
            Ok(())
        });
        assert!(read.is_err() || next == ENTRIES, "a table ended early");
        assert!(
            !edits.is_empty() || read.is_ok(),
            "a sound table is refused"
        );
    } else {
        let path = put(dir, "framed", edited(&sound.framed, edits));
        if let Ok(content) = framed::read(&path) {
            assert_eq!(content.expect("it is there"), &entry(1).0[..]);
        }
    }
}

fn entry(number: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = format!("stream {number:04}").into_bytes();
    let value = (number % 5 != 4).then(|| vec![number as u8; 40 * number as usize]);
    (key, value)
}

fn sound() -> Sound {
    let dir = scratch();
    let dir = dir.path();
    let entries: Vec<_> = (0..ENTRIES).map(entry).collect();
    let entries = entries.iter().map(|(k, v)| (&k[..], v.as_deref()));
    table::write(&dir.join("table"), entries).expect("a tmpfs takes it");
    framed::write_atomic(&dir.join("framed"), &entry(1).0).expect("a tmpfs takes it");
    let read = |path: &Path| std::fs::read(path).expect("just made");
    Sound {
        table: read(&dir.join("table")),
        framed: read(&dir.join("framed")),
    }
}
