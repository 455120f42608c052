//! A backup's objects: the trailer, the index, the sections, and what is planned by them. The first byte of the input chooses whether
//! the rest is an object, or an index whose checksums are right, so that what is behind them is reached.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use raftproto::backup::{Index, Section};
use storage::cold::ColdKey;
use ursula::backup::chain::{Chains, Part};
use ursula::backup::collect::collectable;
use ursula::backup::format::{self, Content, TRAILER_BYTES};
use ursula::group::{Machine, stamp_of};
use ursula::protocol::StreamKey;

/// Longest section that is opened: it is decompressed into memory.
const SECTION_BYTES: u64 = 1 << 16;

/// It is read, or refused, and nothing that it says ends the process.
pub fn backup(data: &[u8]) {
    match data.split_first() {
        Some((0, object)) => an_object(object),
        Some((1, index)) => {
            let position = 8u64.to_le_bytes();
            let length = (index.len() as u32).to_le_bytes();
            let crc32c = crc32c::crc32c(index).to_le_bytes();
            let trailer = [&position[..], &length, &crc32c].concat();
            let mut end = [index, &trailer].concat();
            end.resize(index.len() + TRAILER_BYTES as usize, 0);
            if let Ok(index) = format::read_index(&end) {
                planned(&index);
            }
        }
        Some((_, section)) => a_section(section),
        None => {}
    }
}

fn an_object(object: &[u8]) {
    let Ok(position) = format::index_position(object, object.len() as u64) else {
        return;
    };
    assert!(position <= object.len() as u64);
    let Ok(index) = format::read_index(&object[position as usize..]) else {
        return;
    };
    for section in index.sections.iter().filter(|s| s.length <= SECTION_BYTES) {
        let end = section.position.checked_add(section.stored);
        let range = end.map(|end| section.position as usize..end as usize);
        if let Some(stored) = range.and_then(|range| object.get(range)) {
            let _ = format::open(section, stored);
        }
    }
    planned(&index);
}

/// A section with right lengths and checksums, of any content.
fn a_section(message: &[u8]) {
    for is_base in [false, true] {
        let content = match is_base {
            true => raftproto::backup::Base::decode(message).map(Content::Base),
            false => raftproto::backup::LogRange::decode(message).map(Content::Log),
        };
        let Ok(content) = content else {
            continue;
        };
        a_state(&content);
        let mut builder = format::Builder::new(Index::default());
        let section = Section {
            is_base,
            ..Section::default()
        };
        if builder.add(section, &content).is_err() {
            continue;
        }
        let (index, pieces) = builder.finish(String::new());
        let object = Bytes::from(pieces.concat());
        let section = &index.sections[0];
        let from = section.position as usize;
        let stored = &object[from..from + section.stored as usize];
        assert!(format::open(section, stored).is_ok(), "as it was added");
    }
}

/// What it holds is taken as the start of a group, or refused. What entries order was committed by a sound leader: it is not
/// applied here.
fn a_state(content: &Content) {
    match content {
        Content::Base(base) => {
            let streams = base.streams.iter().map(|stream| {
                let key = StreamKey::from_stored(&stream.key);
                (key, stream.state.to_vec(), stream.own.clone())
            });
            for group in [0, 1] {
                if let Ok(machine) = Machine::load_base(group, &base.group_state, streams.clone()) {
                    assert_eq!(machine.state_hash(), machine.state_hash());
                }
            }
        }
        Content::Log(range) => {
            for entry in &range.entries {
                let _ = stamp_of(&entry.payload);
            }
        }
    }
}

fn planned(index: &Index) {
    let key = ColdKey::new("c/dr/0").expect("a plain word");
    let mut groups: BTreeMap<u32, Chains> = BTreeMap::new();
    for section in &index.sections {
        groups.entry(section.group).or_default().add(Part {
            key: key.clone(),
            shipped_ms: index.shipped_ms,
            section: *section,
        });
    }
    for chains in groups.values() {
        for at_ms in [0, index.shipped_ms, u64::MAX] {
            if let Some(plan) = chains.plan(at_ms) {
                let _ = (plan.reach(), plan.last_ms(), plan.shipped_ms());
            }
        }
    }
    let _ = collectable(&BTreeMap::from([(key, index.clone())]), index.history);
}
