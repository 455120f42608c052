//! `ursula`: durable, replayable event streams over plain HTTP.
//!
//! The modules in the order of a request: [`core`] accepts it, [`http`] parses it into the words of
//! [`protocol`], [`core`] routes it to the executor that owns its [`group`], which decides and answers.
//! [`wire`] makes bytes of it where that executor is on another node.

pub mod admin;
pub mod backup;
pub mod cli;
pub mod config;
pub mod core;
pub mod doctor;
pub mod group;
pub mod http;
pub mod meta;
pub mod mutation;
pub mod node;
pub mod ops;
pub mod peer;
pub mod protocol;
pub mod wire;
