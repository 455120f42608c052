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

/// What a run's streams hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Lines of letters.
    Text,
    /// A JSON string for each record.
    Json,
    /// Bytes of every value.
    Binary,
}

impl Content {
    /// The media type of its streams.
    pub fn media_type(self) -> &'static str {
        match self {
            Content::Text => "text/plain",
            Content::Json => "application/json",
            Content::Binary => "application/octet-stream",
        }
    }

    /// As a scenario's name shows it.
    pub fn label(self) -> &'static str {
        match self {
            Content::Text => "",
            Content::Json => " json",
            Content::Binary => " binary",
        }
    }

    /// What stands before a mark.
    fn lead(self) -> usize {
        usize::from(self == Content::Json)
    }

    fn end(self) -> u8 {
        if self == Content::Json { b'"' } else { b'\n' }
    }
}

/// Writes a record of `len` bytes. The filler is drawn from the mark, so that it can be compared wherever the record comes
/// out; of text, it has six bits a byte, so that a server which compresses gains no more than it would with encoded data.
pub fn put(out: &mut Vec<u8>, mark: Mark, len: usize, content: Content) {
    let from = out.len();
    if content == Content::Json {
        out.push(b'"');
    }
    out.push(b'@');
    put_digits(out, u64::from(mark.writer), 8);
    out.push(b'.');
    put_digits(out, mark.number, 10);
    out.push(b'.');
    put_digits(out, mark.sent_ns, 15);
    let end = (from + len - 1).max(out.len());
    put_filler(out, mark, end, content);
    out.push(content.end());
}

fn put_filler(out: &mut Vec<u8>, mark: Mark, end: usize, content: Content) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = (u64::from(mark.writer) << 40) ^ mark.number ^ mark.sent_ns.rotate_left(32);
    while out.len() < end {
        // SplitMix64: ten letters of each number, or eight bytes.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = state;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        drawn ^= drawn >> 31;
        let left = end - out.len();
        if content == Content::Binary {
            out.extend_from_slice(&drawn.to_le_bytes()[..left.min(8)]);
            continue;
        }
        for _ in 0..left.min(10) {
            out.push(LETTERS[(drawn & 63) as usize]);
            drawn >>= 6;
        }
    }
}

/// What is found in a stream's bytes.
#[derive(Debug)]
pub enum Found<'a> {
    /// A record, every byte of it as it was sent.
    Record(Mark),
    /// A record with other bytes than it was sent with.
    Garbled(Mark),
    /// Bytes before, between or after records.
    Between(&'a [u8]),
}

/// Finds the records of a run, and compares all their bytes.
#[derive(Debug)]
pub struct Scanner {
    bytes: usize,
    content: Content,
    /// The last record, since a thousand readers get the same one in turn.
    last: Option<Mark>,
    expected: Vec<u8>,
}

impl Scanner {
    /// For records of so many bytes.
    pub fn new(bytes: usize, content: Content) -> Scanner {
        Scanner {
            bytes: bytes.max(MARK_BYTES + 1 + content.lead()),
            content,
            last: None,
            expected: Vec::new(),
        }
    }

    /// Goes through bytes that may end inside a record. Answers how many were used up; keep the rest.
    pub fn scan(&mut self, bytes: &[u8], found: &mut dyn FnMut(Found<'_>)) -> usize {
        let lead = self.content.lead();
        let (mut at, mut reported) = (0, 0);
        while let Some(next) = memchr::memchr(b'@', &bytes[at..]) {
            let from = at + next;
            let Some(head) = bytes.get(from..from + MARK_BYTES) else {
                break;
            };
            let Some(mark) = parse(head) else {
                at = from + 1;
                continue;
            };
            let Some(record) = bytes.get(from..from + self.bytes - lead) else {
                break;
            };
            let before = &bytes[reported..from];
            let before = &before[..before.len().saturating_sub(lead)];
            if !before.is_empty() {
                found(Found::Between(before));
            }
            if self.last != Some(mark) {
                self.expected.clear();
                put(&mut self.expected, mark, self.bytes, self.content);
                self.last = Some(mark);
            }
            at = if record == &self.expected[lead..] {
                found(Found::Record(mark));
                from + record.len()
            } else {
                // The next record may begin inside it.
                found(Found::Garbled(mark));
                from + MARK_BYTES
            };
            reported = at;
        }
        // A record that is not whole yet stays.
        let rest = &bytes[at..];
        let is_opened = lead > 0 && rest.ends_with(b"\"");
        let without = rest.len() - usize::from(is_opened);
        let next = memchr::memchr(b'@', rest).map_or(without, |next| next.saturating_sub(lead));
        let used = (at + next).max(reported);
        if used > reported {
            found(Found::Between(&bytes[reported..used]));
        }
        used
    }
}

/// Finds the marks in bytes that may end inside one, whatever follows them. Answers how many bytes were used up.
pub fn scan_marks(bytes: &[u8], found: &mut dyn FnMut(Mark)) -> usize {
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

    fn marks() -> Vec<Mark> {
        let mark = |number| Mark {
            writer: 7,
            number,
            sent_ns: 1_000 * number,
        };
        (0..5).map(mark).collect()
    }

    #[test]
    fn records_are_found_however_they_are_cut() {
        for content in [Content::Text, Content::Json, Content::Binary] {
            for bytes in [40, 41, 300] {
                let mut wire = Vec::new();
                for mark in marks() {
                    let from = wire.len();
                    put(&mut wire, mark, bytes, content);
                    assert_eq!(wire.len() - from, bytes);
                }
                for size in 1..wire.len() {
                    let (mut kept, mut found) = (Vec::new(), Vec::new());
                    let mut scanner = Scanner::new(bytes, content);
                    for part in wire.chunks(size) {
                        kept.extend_from_slice(part);
                        let used = scanner.scan(&kept, &mut |piece| match piece {
                            Found::Record(mark) => found.push(mark),
                            other => panic!("{other:?} of {content:?}"),
                        });
                        kept.drain(..used);
                    }
                    assert_eq!(found, marks(), "{content:?} in parts of {size}");
                }
            }
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        for content in [Content::Text, Content::Json, Content::Binary] {
            let mut wire = Vec::new();
            for mark in marks() {
                put(&mut wire, mark, 80, content);
            }
            for at in 0..wire.len() {
                let mut changed = wire.clone();
                changed[at] ^= 1;
                let mut whole = Vec::new();
                let used = Scanner::new(80, content).scan(&changed, &mut |piece| {
                    if let Found::Record(mark) = piece {
                        whole.push(mark);
                    }
                });
                let is_seen = whole != marks() || used < wire.len();
                // A quote before a mark shows in what stands between records.
                let is_quote = content == Content::Json && at % 80 == 0;
                assert!(is_seen || is_quote, "byte {at} of {content:?}");
            }
        }
    }
}
