//! Packs, local and cold. The first byte of the input chooses: edits of a sound one, or an index of any bytes under a right
//! checksum. Whatever was done, a chunk is refused or is what was put in.

use std::sync::OnceLock;

use bytes::Bytes;
use storage::cold_pack::{self, Built, Header, Source};
use storage::pack::{PackPlan, verify_named};

use crate::edits::{edited, put, scratch};

const HEADER: Header = Header {
    group: 3,
    term: 5,
    number: 7,
    nonce: 11,
};

/// Largest chunk that there is.
const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// Reads a pack.
pub fn pack(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 3 {
        0 => cold(rest),
        1 => index(rest),
        _ => local(rest),
    }
}

fn sources() -> Vec<Source> {
    let source = |number: u64| {
        let text = format!("the same again {number}, ").repeat(1 << (2 * number));
        Source {
            key: format!("/stream-{number}"),
            incarnation: number,
            start: number << 20,
            pieces: vec![Bytes::from(text)],
        }
    };
    (0..6).map(source).collect()
}

fn cold(edits: &[u8]) {
    static SOUND: OnceLock<(Vec<Source>, Built, Vec<u8>)> = OnceLock::new();
    let (sources, built, object) = SOUND.get_or_init(|| {
        let built = cold_pack::build(HEADER, &sources());
        let object = built.pieces.concat();
        (sources(), built, object)
    });
    let object = Bytes::from(edited(object, edits));
    let is_sound = edits.is_empty();
    assert!(!is_sound || cold_pack::check_header(&object, HEADER).is_ok());
    // As a reader has it, which knows the places by the log.
    for (source, at) in sources.iter().zip(&built.locations) {
        let (begin, end) = (
            at.position as usize,
            at.position as usize + at.stored as usize,
        );
        let stored = object.get(begin..end).map(|_| object.slice(begin..end));
        let opened = cold_pack::open(stored.unwrap_or_default(), at);
        assert!(!is_sound || opened.is_ok());
        if let Ok(chunk) = opened {
            assert_eq!(chunk, source.pieces[0], "a chunk is not what was put in");
        }
    }
    // As who finds it, which knows nothing.
    if let Ok(position) = cold_pack::index_position(&object, object.len() as u64)
        && let Ok(entries) = cold_pack::read_index(&object[position as usize..])
    {
        for (entry, (source, at)) in entries.iter().zip(sources.iter().zip(&built.locations)) {
            assert_eq!((&entry.key, entry.start), (&source.key, source.start));
            assert_eq!(entry.location, *at);
        }
    }
}

/// An index that nobody damaged, and that is nonsense.
fn index(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first() else {
        return;
    };
    let mut end = bytes.to_vec();
    end.extend_from_slice(&32u64.to_le_bytes());
    end.extend_from_slice(&u32::from(*count).to_le_bytes());
    end.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    end.extend_from_slice(b"URSCOLDE");
    let Ok(entries) = cold_pack::read_index(&end) else {
        return;
    };
    assert_eq!(entries.len(), usize::from(*count));
    for entry in entries
        .iter()
        .filter(|e| e.location.length < CHUNK_BYTES_MAX)
    {
        let stored = bytes.get(..entry.location.stored as usize).unwrap_or(bytes);
        let opened = cold_pack::open(Bytes::copy_from_slice(stored), &entry.location);
        if let Ok(chunk) = opened {
            assert_eq!(chunk.len(), entry.location.length as usize);
        }
    }
}

fn local(edits: &[u8]) {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let sound = SOUND.get_or_init(|| {
        let mut plan = PackPlan::new(3, 7);
        for source in sources() {
            plan.add(&source.key, source.incarnation, source.start, source.pieces);
        }
        let dir = scratch();
        let path = dir.path().join("pack");
        plan.write(&path).expect("a tmpfs takes it");
        std::fs::read(&path).expect("just made")
    });
    let dir = scratch();
    let bytes = edited(sound, edits);
    let is_changed = bytes != *sound;
    let path = put(dir.path(), "pack", bytes);
    match verify_named(&path, 3, 7) {
        Ok(found) => assert_eq!((found.group, found.number, found.chunks), (3, 7, 6)),
        Err(_) => assert!(is_changed, "a sound pack is refused"),
    }
}
