//! Cursors that let a cache collapse readers and never loop (protocol, section 10.1).

/// 2024-10-09T00:00:00Z in milliseconds since 1970.
const EPOCH_MS: u64 = 1_728_432_000_000;

/// Length of an interval in milliseconds.
const INTERVAL_MS: u64 = 20_000;

/// The cursor of an answer given at `now_ms`: the number of the interval; if the client's cursor is not
/// below it, one beyond the client's by a jitter of 1 to 3,600 seconds, at least one interval.
pub fn cursor(now_ms: u64, client: Option<u64>, random: u64) -> u64 {
    let current = now_ms.saturating_sub(EPOCH_MS) / INTERVAL_MS;
    match client {
        Some(client) if client >= current => {
            let jitter_seconds = 1 + random % 3600;
            client.saturating_add((jitter_seconds * 1000 / INTERVAL_MS).max(1))
        }
        _ => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_never_goes_back() {
        let now = EPOCH_MS + 10 * INTERVAL_MS + 5;
        assert_eq!(cursor(now, None, 7), 10);
        assert_eq!(cursor(now, Some(9), 7), 10);
        for random in [0, 1, 3599, u64::MAX] {
            let next = cursor(now, Some(10), random);
            assert!(next > 10 && next <= 10 + 180, "{next}");
            assert!(cursor(now, Some(500), random) > 500);
        }
    }
}
