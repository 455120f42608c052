//! Tests that cannot run everywhere, and where they must all the same.

use std::fmt::Display;

/// Says why a test, or a part of one, does not run here.
///
/// # Panics
/// If `URSULA_TEST_NO_SKIPS` is set: there, whoever does not run has failed.
pub fn skip(reason: impl Display) {
    assert!(
        std::env::var_os("URSULA_TEST_NO_SKIPS").is_none(),
        "this may not be skipped here: {reason}"
    );
    println!("skipped: {reason}");
}
