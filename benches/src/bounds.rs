//! Figures of the command line, each within its bounds.

use std::str::FromStr;

fn within<T>(text: &str, least: T, most: T) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let value = text.parse::<T>().ok();
    // Not-a-number is within nothing.
    value
        .filter(|value| *value >= least && *value <= most)
        .ok_or_else(|| format!("{text:?} is not a number from {least} to {most}"))
}

/// Streams.
pub fn streams(text: &str) -> Result<usize, String> {
    within(text, 1, 10_000_000)
}

/// Connections; a machine has some 60,000 ports for one address.
pub fn connections(text: &str) -> Result<usize, String> {
    within(text, 1, 50_000)
}

/// Connections of a kind that may be absent.
pub fn readers(text: &str) -> Result<usize, String> {
    within(text, 0, 50_000)
}

/// How often.
pub fn rounds(text: &str) -> Result<usize, String> {
    within(text, 1, 1000)
}

/// Per second.
pub fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.01, 10_000_000.0)
}

/// Seconds that are measured.
pub fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.1, 86_400.0)
}

/// Seconds before that.
pub fn warmup(text: &str) -> Result<f64, String> {
    within(text, 0.0, 86_400.0)
}

/// Bytes of a record: the shortest one is a mark, two quotes and two bytes more.
pub fn record_bytes(text: &str) -> Result<usize, String> {
    within(text, crate::record::MARK_BYTES + 4, 64 << 20)
}

/// Bytes of a stream.
pub fn stream_bytes(text: &str) -> Result<u64, String> {
    within(text, 1, 1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_figure_is_refused() {
        for text in ["0", "-1", "", "many", "10000001"] {
            assert!(streams(text).is_err(), "{text}");
        }
        for text in ["0", "-5", "nan", "inf", "1e-300"] {
            assert!(rate(text).is_err(), "{text}");
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(record_bytes("39").is_err());
        assert_eq!((rate("0.5"), record_bytes("40")), (Ok(0.5), Ok(40)));
    }
}
