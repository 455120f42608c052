//! Where bytes are, as they come, are packed, flushed, trimmed and cut.

use super::*;

const HERE: Places = Places {
    group: 1,
    name_of: &|pack| crate::protocol::PackName {
        term: 1,
        number: pack,
        nonce: 0,
    },
};

fn text(pieces: &[Piece]) -> String {
    pieces
        .iter()
        .map(|p| match p {
            Piece::Hot(b) => String::from_utf8_lossy(b).into_owned(),
            Piece::Cold {
                chunk, from, to, ..
            } => {
                format!("[{}:{}-{}]", chunk.start, from, to)
            }
            Piece::Stored {
                chunk, from, to, ..
            } => {
                format!("<{}:{}-{}>", chunk.start, from, to)
            }
            Piece::Inherited { .. } => unreachable!("own bytes only"),
        })
        .collect()
}

fn place(start: u64, pieces: Vec<Bytes>) -> ChunkRef {
    ChunkRef {
        pack: 7,
        position: 0,
        start,
        length: pieces.iter().map(Bytes::len).sum::<usize>() as u32,
        crc32c: 0,
    }
}

#[test]
fn small_appends_share_a_block_and_large_ones_are_not_copied() {
    let mut bytes = StreamBytes::starting_at(0);
    let entry = Bytes::from(vec![b'x'; 1 << 20]);
    for at in 0..100 {
        bytes.append(entry.slice(at * 300..(at + 1) * 300));
    }
    let large = Bytes::from(vec![b'y'; ALONE_BYTES_MIN]);
    bytes.append(large.clone());
    bytes.append(Bytes::from_static(b"z"));
    let mut pieces = Vec::new();
    bytes.plan(HERE, 0, bytes.end(), &mut pieces);
    let text = text(&pieces);
    assert_eq!(text.len(), 30_000 + ALONE_BYTES_MIN + 1);
    assert!(text.ends_with("yz") && text.starts_with('x'));
    assert!(pieces.len() <= 4, "{}", pieces.len());
    let is_same = |p: &Piece| matches!(p, Piece::Hot(b) if b.as_ptr() == large.as_ptr());
    assert!(pieces.iter().any(is_same), "the large body was copied");
    drop(pieces);
    assert!(entry.is_unique(), "a small append keeps its entry alive");
    assert_eq!(bytes.hot_byte_before(30_000), Some(b'x'));
    assert_eq!(bytes.hot_byte_before(bytes.end()), Some(b'z'));
}

#[test]
fn a_plan_stitches_packs_and_memory() {
    let mut bytes = StreamBytes::starting_at(10);
    bytes.append(Bytes::from_static(b"abc"));
    bytes.append(Bytes::from_static(b"defg"));
    bytes.pack(5, &mut place);
    assert_eq!(bytes.chunks().len(), 2);
    assert_eq!(bytes.take_unsaved_chunks().len(), 2);
    assert_eq!(bytes.drop_packed(6), 0, "pack 7 is not durable yet");
    bytes.append(Bytes::from_static(b"hij"));
    let mut pieces = Vec::new();
    bytes.plan(HERE, 11, 19, &mut pieces);
    assert_eq!(text(&pieces), "bcdefghi");
    assert_eq!(bytes.drop_packed(7), 7);
    assert_eq!((bytes.hot_len(), bytes.end()), (3, 20));
    let mut pieces = Vec::new();
    bytes.plan(HERE, 11, 20, &mut pieces);
    assert_eq!(text(&pieces), "[10:1-5][15:0-2]hij");
    assert_eq!(bytes.hot_byte_before(18), Some(b'h'));
    assert_eq!(bytes.hot_byte_before(17), None);
    assert_eq!(bytes.take_unsaved_chunks().len(), 0);
}

fn stored(start: u64, length: u32, pack: u32) -> crate::protocol::ColdChunk {
    crate::protocol::ColdChunk {
        pack,
        position: 0,
        start,
        length,
        stored: length,
        crc32c: 0,
    }
}

fn planned(bytes: &StreamBytes, from: u64) -> String {
    let mut pieces = Vec::new();
    bytes.plan(HERE, from, bytes.end(), &mut pieces);
    text(&pieces)
}

#[test]
fn what_the_cold_store_has_leaves_memory_and_local_packs() {
    let mut bytes = StreamBytes::starting_at(10);
    bytes.append(Bytes::from_static(b"abcdef"));
    bytes.pack(3, &mut place);
    bytes.append(Bytes::from_static(b"ghi"));
    let mut gone = Vec::new();
    assert!(bytes.add_cold(stored(10, 4, 1), &mut |c| gone.push(c.start)));
    assert_eq!(gone, [10], "a local chunk with later bytes stays");
    assert!(
        !bytes.add_cold(stored(10, 3, 1), &mut |_| {}),
        "another cut"
    );
    assert!(!bytes.add_cold(stored(15, 1, 1), &mut |_| {}), "a gap");
    assert_eq!(planned(&bytes, 10), "abcdefghi", "memory first");
    assert_eq!(bytes.drop_packed(7), 6);
    assert_eq!(planned(&bytes, 10), "<10:0-4>[13:1-3]ghi");
    assert!(bytes.add_cold(stored(14, 5, 2), &mut |c| gone.push(c.start)));
    assert_eq!((bytes.packed_hot(), bytes.drop_packed(0)), (Some(0), 3));
    assert_eq!((gone, bytes.hot_len()), (vec![10, 13], 0));
    assert_eq!(planned(&bytes, 11), "<10:1-4><14:0-5>");
    bytes.append(Bytes::from_static(b"jk"));
    assert_eq!(planned(&bytes, 18), "<14:4-5>jk");
    bytes.pack(9, &mut place);
    assert_eq!(bytes.drop_packed(7), 2);
    assert_eq!(planned(&bytes, 18), "<14:4-5>[19:0-2]");
}

#[test]
fn a_chunk_is_moved_to_another_pack_only_as_it_is() {
    let mut bytes = StreamBytes::starting_at(0);
    bytes.append(Bytes::from_static(b"abcdefgh"));
    assert!(bytes.add_cold(stored(0, 4, 1), &mut |_| {}));
    assert!(bytes.add_cold(stored(4, 4, 1), &mut |_| {}));
    assert_eq!(bytes.move_cold(stored(4, 4, 2)).map(|c| c.pack), Some(1));
    assert_eq!(bytes.move_cold(stored(4, 3, 3)), None);
    assert_eq!(bytes.move_cold(stored(2, 2, 3)), None);
    bytes.drop_packed(0);
    assert_eq!(planned(&bytes, 1), "<0:1-4><4:0-4>");
}

#[test]
fn what_is_left_of_a_chunk_whose_begin_is_lost_is_read_and_saved() {
    let mut bytes = StreamBytes::starting_at(0);
    bytes.append(Bytes::from_static(b"abcdefgh"));
    bytes.pack(5, &mut place);
    assert_eq!(bytes.take_unsaved_chunks().len(), 2);
    bytes.drop_packed(7);
    let whole = bytes.chunks()[0];
    let kept = ChunkRef {
        position: 3,
        start: 3,
        length: 2,
        ..whole
    };
    assert!(!bytes.cut_chunk(&whole, kept), "all of it is needed");
    bytes.trim(4, &mut |_| {}, &mut |_| {});
    assert!(bytes.cut_chunk(&whole, kept));
    assert!(!bytes.cut_chunk(&whole, kept), "it was cut before");
    assert_eq!(planned(&bytes, 4), "[3:1-2][5:0-3]");
    assert_eq!(bytes.chunks_from(), 3);
    assert_eq!(bytes.take_unsaved_chunks()[0], kept);
    assert_eq!(bytes.take_unsaved_chunks().len(), 0);
}

#[test]
fn what_is_trimmed_goes_from_everywhere() {
    let mut bytes = StreamBytes::starting_at(0);
    bytes.append(Bytes::from_static(b"abcd"));
    assert!(bytes.add_cold(stored(0, 2, 1), &mut |_| {}));
    assert!(bytes.add_cold(stored(2, 2, 1), &mut |_| {}));
    bytes.append(Bytes::from_static(b"efgh"));
    bytes.pack(2, &mut place);
    bytes.append(Bytes::from_static(b"ij"));
    let (mut local, mut cold) = (Vec::new(), Vec::new());
    let freed = bytes.trim(3, &mut |c| local.push(c.start), &mut |c| cold.push(c.start));
    assert_eq!((freed, local.len(), &cold[..]), (0, 0, &[0][..]));
    bytes.drop_packed(7);
    assert_eq!(planned(&bytes, 3), "<2:1-2>[4:0-2][6:0-2]ij");
    let freed = bytes.trim(9, &mut |c| local.push(c.start), &mut |c| cold.push(c.start));
    assert_eq!(
        (freed, &local[..], &cold[..]),
        (0, &[4, 6][..], &[0, 2][..])
    );
    assert_eq!((planned(&bytes, 9).as_str(), bytes.cold_end()), ("j", 9));
    bytes.trim(10, &mut |_| {}, &mut |_| {});
    assert_eq!((bytes.hot_len(), bytes.end()), (0, 10));
    bytes.append(Bytes::from_static(b"k"));
    assert_eq!(planned(&bytes, 10), "k");
    bytes.pack(9, &mut place);
    assert_eq!(bytes.drop_packed(7), 1);
    assert_eq!(planned(&bytes, 10), "[10:0-1]");
}
