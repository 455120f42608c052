//! What operators see: metrics, logs, exit codes.

pub mod exit;
pub mod logging;
pub mod metrics;
