//! The write-ahead log: one lane of segments per core, one write and one sync for all groups of the core.
//!
//! A *generation* is one start of the process, a *lane* is one core's row of segments in it. A group's records
//! lie in one lane per generation, so the order generation, lane, sequence, frame is the order they were
//! written in. The directory belongs to its files, not to a number of cores: a start reads all lanes.

mod file;
mod image;
mod legacy;
mod log_thread;
mod pending;
mod polling;
mod recover;
mod sealed;
mod segment;
mod spare;
mod writer;

use crate::StorageError;

pub use file::{IoMode, has_direct_io};
pub use image::LaneImage;
pub use legacy::{LegacySegment, Pin};
pub use log_thread::LogThread;
pub use recover::{Keep, Recovered, TornTail, recover, recover_images};
pub use sealed::{sealed, verify};
pub use segment::{Record, RecordRef, SegmentId};
pub use writer::{Committed, PinReport, Wal, WalConfig};

/// Lets glommio find out about the device that a directory is on; see `polling.rs`.
pub(crate) async fn settle_polling(dir: &std::path::Path, core: u32) -> Result<(), StorageError> {
    polling::settle(dir, 0, core).await
}

/// Records of this kind and above are repeated at the start of each segment, and keep no segment alive.
pub const CARRIED_KIND: u8 = 128;

#[cfg(test)]
mod tests;
