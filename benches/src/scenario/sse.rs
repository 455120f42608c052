//! Event streams of binary data: the data of each event comes in base64.

/// Takes events apart as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    is_data: bool,
    /// The digits of this event's data, over all its lines.
    digits: Vec<u8>,
}

impl Decoder {
    /// Takes bytes of the event stream and puts out the data of each whole event. Answers the offset of the newest
    /// control event.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<String> {
        let mut offset = None;
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.last() != Some(&b'\n') {
                continue;
            }
            let line = self.line.trim_ascii();
            if line.is_empty() {
                decode(&self.digits, out);
                self.digits.clear();
            } else if let Some(kind) = line.strip_prefix(b"event:") {
                self.is_data = kind.trim_ascii() == b"data";
            } else if let Some(data) = line.strip_prefix(b"data:") {
                match self.is_data {
                    true => self.digits.extend_from_slice(data.trim_ascii()),
                    false => offset = super::live::last_offset(data).or(offset),
                }
            }
            self.line.clear();
        }
        offset
    }
}

fn decode(digits: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_comes_out_however_the_events_are_cut() {
        let wire = b"event: data\ndata:QGFi\ndata:YwD/\n\nevent: control\n\
            data:{\"streamNextOffset\":\"7\",\"streamCursor\":\"1\"}\n\nevent: data\ndata: /w==\n\n";
        for size in 1..=wire.len() {
            let (mut decoder, mut out, mut offset) = (Decoder::default(), Vec::new(), None);
            for part in wire.chunks(size) {
                offset = decoder.feed(part, &mut out).or(offset);
            }
            assert_eq!(out, b"@abc\0\xff\xff", "in parts of {size}");
            assert_eq!(offset.as_deref(), Some("7"));
        }
    }
}
