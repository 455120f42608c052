//! How long a stream lives: a sliding window or an instant (protocol, section 5.1).

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A sliding window in seconds.
pub type TtlSeconds = u64;

/// What ends a stream's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Nothing.
    #[default]
    Never,
    /// No read and no write for this many seconds.
    Ttl(TtlSeconds),
    /// This instant, in milliseconds since 1970.
    At(u64),
}

/// Longest window: some 30,000 years.
pub const TTL_SECONDS_MAX: TtlSeconds = 999_999_999_999;

/// Why a text is no window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlError {
    /// Not digits alone, or with a leading zero.
    Form,
    /// Above [`TTL_SECONDS_MAX`].
    Range,
}

/// Reads `Stream-TTL`: decimal digits without sign, leading zero, point or exponent.
///
/// # Errors
/// [`TtlError`].
pub fn parse_ttl(text: &str) -> Result<TtlSeconds, TtlError> {
    let plain = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if !plain {
        return Err(TtlError::Form);
    }
    let seconds = text.parse().ok().filter(|s| *s <= TTL_SECONDS_MAX);
    seconds.ok_or(TtlError::Range)
}

/// Reads an RFC 3339 timestamp as milliseconds since 1970; `None` if it is malformed or before 1970.
pub fn parse_rfc3339_ms(text: &str) -> Option<u64> {
    // The parser takes any byte between date and time.
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't')) {
        return None;
    }
    let instant = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(instant.unix_timestamp_nanos() / 1_000_000).ok()
}

/// Writes milliseconds since 1970 as an RFC 3339 timestamp in UTC.
pub fn rfc3339_from_ms(ms: u64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|instant| instant.format(&Rfc3339).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_plain_decimal() {
        assert_eq!(parse_ttl("3600"), Ok(3600));
        assert_eq!(parse_ttl("0"), Ok(0));
        for bad in ["", "+1", "-1", "01", "1.0", "3e3", "abc"] {
            assert_eq!(parse_ttl(bad), Err(TtlError::Form), "{bad}");
        }
        for far in ["1000000000000", "9999999999999", &"9".repeat(40)] {
            assert_eq!(parse_ttl(far), Err(TtlError::Range), "{far}");
        }
    }

    #[test]
    fn timestamps_round_trip() {
        let ms = parse_rfc3339_ms("2030-01-01T02:00:00+02:00").unwrap();
        assert_eq!(rfc3339_from_ms(ms), "2030-01-01T00:00:00Z");
        for bad in [
            "tomorrow",
            "1969-01-01T00:00:00Z",
            "2030-01-01 00:00:00Z",
            "2030-01-01_00:00:00Z",
            "2030-01-01T00:00:00",
        ] {
            assert_eq!(parse_rfc3339_ms(bad), None, "{bad}");
        }
    }
}
