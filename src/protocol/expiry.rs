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

impl Expiry {
    /// Reads `Stream-TTL`: decimal digits without sign, leading zero, point or exponent.
    pub fn parse_ttl(text: &str) -> Option<Expiry> {
        let plain = !text.is_empty()
            && text.len() <= 12
            && text.bytes().all(|b| b.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        if !plain {
            return None;
        }
        text.parse().ok().map(Expiry::Ttl)
    }
}

/// Reads an RFC 3339 timestamp as milliseconds since 1970; `None` if it is malformed or before 1970.
pub fn parse_rfc3339_ms(text: &str) -> Option<u64> {
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
        assert_eq!(Expiry::parse_ttl("3600"), Some(Expiry::Ttl(3600)));
        assert_eq!(Expiry::parse_ttl("0"), Some(Expiry::Ttl(0)));
        for bad in ["", "+1", "-1", "01", "1.0", "3e3", "abc", "9999999999999"] {
            assert_eq!(Expiry::parse_ttl(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_round_trip() {
        let ms = parse_rfc3339_ms("2030-01-01T02:00:00+02:00").unwrap();
        assert_eq!(rfc3339_from_ms(ms), "2030-01-01T00:00:00Z");
        assert_eq!(parse_rfc3339_ms("tomorrow"), None);
        assert_eq!(parse_rfc3339_ms("1969-01-01T00:00:00Z"), None);
    }
}
