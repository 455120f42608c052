//! What operators see: metrics, logs.

pub mod logging;
pub mod metrics;
