//! Which build this is. The one place that says so: `--version`, the log, the metrics and the console all ask here.

/// The version; the build may say another one in `URSULA_VERSION`, such as `1.2.3-rc1` of a commit that is to become 1.2.3.
pub const VERSION: &str = match option_env!("URSULA_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The commit that was built, where the build said so.
pub const COMMIT: &str = match option_env!("URSULA_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
