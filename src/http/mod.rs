//! Bytes of HTTP to the words of the protocol and back. Knows nothing of groups, Raft or disks.

pub mod backend;
mod body;
mod body_out;
mod buckets;
mod header;
mod host;
mod live;
pub mod parse;
pub mod path;
mod read;
mod respond;
mod retention;
mod service;
mod sse;
pub mod sse_text;
mod status;
mod write;

pub use body_out::ResponseBody;
pub use host::{authority, location};
pub use service::serve;
pub use write::stored;
