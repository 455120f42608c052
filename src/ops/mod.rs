//! What operators see: metrics, logs, exit codes, and which build it is.

pub mod build;
pub mod exit;
pub mod logging;
pub mod metrics;
