//! What is appended: records that name their writer, their number and when they were sent, so that loss, order,
//! doubles and delay are seen wherever they come out.

use std::time::Instant;

/// Bytes of a record without filler: `@wwwwwwww.nnnnnnnnnn.ttttttttttttttt`.
pub const MARK_BYTES: usize = 36;

/// One record, as it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub writer: u32,
    pub number: u64,
    /// Nanoseconds since the process began.
    pub sent_ns: u64,
}

/// Nanoseconds since `epoch`.
pub fn nanos_since(epoch: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(epoch).as_nanos() as u64
}

fn put_digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let from = out.len();
    out.resize(from + width, b'0');
    for digit in out[from..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes a record of `len` bytes; as a JSON string where the stream is JSON, else a line. The filler is drawn from the mark,
/// six bits a byte, so that a server which compresses gains no more than it would with encoded data.
pub fn put(out: &mut Vec<u8>, mark: Mark, len: usize, is_json: bool) {
    let from = out.len();
    if is_json {
        out.push(b'"');
    }
    out.push(b'@');
    put_digits(out, u64::from(mark.writer), 8);
    out.push(b'.');
    put_digits(out, mark.number, 10);
    out.push(b'.');
    put_digits(out, mark.sent_ns, 15);
    let end = (from + len - 1).max(out.len());
    put_filler(out, mark, end);
    out.push(if is_json { b'"' } else { b'\n' });
}

fn put_filler(out: &mut Vec<u8>, mark: Mark, end: usize) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = (u64::from(mark.writer) << 40) ^ mark.number ^ mark.sent_ns.rotate_left(32);
    while out.len() < end {
        // SplitMix64: ten letters of each number.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = state;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^= drawn >> 31;
        for _ in 0..(end - out.len()).min(10) {
            out.push(LETTERS[(drawn & 63) as usize]);
            drawn >>= 6;
        }
    }
}

/// Finds the records in bytes that may end inside one. Answers how many bytes were used up; keep the rest.
pub fn scan(bytes: &[u8], found: &mut dyn FnMut(Mark)) -> usize {
    let mut at = 0;
    while let Some(next) = memchr::memchr(b'@', &bytes[at..]) {
        let from = at + next;
        let Some(mark) = bytes.get(from..from + MARK_BYTES) else {
            return from;
        };
        at = from + 1;
        if let Some(mark) = parse(mark) {
            found(mark);
            at = from + MARK_BYTES;
        }
    }
    bytes.len()
}

fn parse(mark: &[u8]) -> Option<Mark> {
    if mark[9] != b'.' || mark[20] != b'.' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        mark[range].iter().try_fold(0u64, |sum, b| {
            b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0'))
        })
    };
    Some(Mark {
        writer: number(1..9)? as u32,
        number: number(10..20)?,
        sent_ns: number(21..36)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_however_they_are_cut() {
        let marks: Vec<Mark> = (0..5)
            .map(|n| Mark {
                writer: 7,
                number: n,
                sent_ns: 1_000 * n,
            })
            .collect();
        let mut wire = Vec::new();
        for (at, mark) in marks.iter().enumerate() {
            put(&mut wire, *mark, 40 + at, at % 2 == 0);
            assert!(wire.len() >= 40);
        }
        for size in 1..wire.len() {
            let (mut kept, mut found) = (Vec::new(), Vec::new());
            for part in wire.chunks(size) {
                kept.extend_from_slice(part);
                let used = scan(&kept, &mut |mark| found.push(mark));
                kept.drain(..used);
            }
            assert_eq!(found, marks, "in parts of {size}");
        }
    }
}
