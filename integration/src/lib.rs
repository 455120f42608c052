//! What the tests share: real server processes, an HTTP client that hides nothing, and a judge of histories.

mod client;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod linear;
pub mod load;
pub mod random;
pub mod s3;
mod server;
mod skip;
pub mod suite;

pub use client::{Client, Reply, metric, raw};
pub use server::{Server, Settings, repository, scratch_dir};
pub use skip::skip;
