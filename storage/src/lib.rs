//! What touches disks and S3: the write-ahead log, packs, state tables, framed files, the cold store. Knows nothing of HTTP or Raft.

pub mod blocking;
pub mod cache;
pub mod cold;
pub mod cold_pack;
mod error;
pub mod files;
pub mod framed;
pub mod lock;
pub mod mutation;
pub mod pack;
pub mod table;
#[cfg(any(test, feature = "tape"))]
pub mod tape;
pub mod wal;

pub use error::{StorageError, io_error};
