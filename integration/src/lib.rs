//! What the tests share: a real server process, and an HTTP client that hides nothing.

mod client;
mod server;

pub use client::{Client, Reply, raw};
pub use server::{Server, Settings, repository, scratch_dir};
