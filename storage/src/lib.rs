//! What touches disks: the write-ahead log, packs, state tables, framed files. Knows nothing of HTTP or Raft.

pub mod blocking;
pub mod cold_pack;
mod error;
pub mod framed;
pub mod lock;
pub mod pack;
pub mod table;
pub mod wal;

pub use error::{StorageError, io_error};
