//! Offsets: where a position in a stream is (protocol, section 8).
//!
//! The text is two fields of 16 decimal digits, `<epoch>_<position>`; the first is zero today and kept for a
//! later format, the second is the byte position. Fixed width makes texts sort as positions do.

use std::fmt;

/// A byte position in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

/// Largest position that has a text.
const POSITION_MAX: u64 = 9_999_999_999_999_999;

/// The text is not an offset that this server minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetError;

impl Offset {
    /// The start of every stream.
    pub const ZERO: Offset = Offset(0);

    /// The largest one that has a text.
    pub const MAX: Offset = Offset(POSITION_MAX);

    /// Reads a token that a client sent back.
    ///
    /// # Errors
    /// [`OffsetError`] if it is not exactly of the minted form.
    pub fn parse(text: &str) -> Result<Offset, OffsetError> {
        let bytes = text.as_bytes();
        if bytes.len() != 33 || bytes[16] != b'_' {
            return Err(OffsetError);
        }
        let epoch = digits(&bytes[..16])?;
        let position = digits(&bytes[17..])?;
        if epoch != 0 {
            return Err(OffsetError);
        }
        Ok(Offset(position))
    }
}

fn digits(text: &[u8]) -> Result<u64, OffsetError> {
    let mut value = 0u64;
    for byte in text {
        if !byte.is_ascii_digit() {
            return Err(OffsetError);
        }
        value = value * 10 + u64::from(byte - b'0');
    }
    Ok(value)
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_assert!(self.0 <= POSITION_MAX);
        write!(f, "0000000000000000_{:016}", self.0)
    }
}

/// Where a read starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// `-1`, or no offset at all.
    Start,
    /// `now`: the tail at the moment of the request.
    Now,
    /// A minted offset.
    At(Offset),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip_and_sort_as_positions_do() {
        let positions = [0, 1, 9, 10, 255, 4096, POSITION_MAX];
        let texts: Vec<String> = positions.iter().map(|p| Offset(*p).to_string()).collect();
        assert!(texts.is_sorted());
        for (position, text) in positions.iter().zip(&texts) {
            assert_eq!(Offset::parse(text), Ok(Offset(*position)));
        }
    }

    #[test]
    fn what_was_not_minted_is_refused() {
        for bad in [
            "",
            "-1",
            "now",
            "0",
            "0_0",
            "../x",
            "0000000000000000_000000000000000a",
            "0000000000000001_0000000000000000",
            "0000000000000000-0000000000000000",
            "0000000000000000_00000000000000000",
        ] {
            assert_eq!(Offset::parse(bad), Err(OffsetError), "{bad}");
        }
    }
}
