//! Makes glommio find out whether a disk has polled queues, before it guesses wrong.
//!
//! glommio 0.9 asks once per device and executor, by a polled read of the first file that it opens there. On an empty
//! file that read ends before it reaches the device, and counts as "polled I/O works". From then on writes go through
//! the polled ring, and while one is under way the executor cannot sleep: it spins through the kernel at full CPU (at 2,000
//! appends a second, 13 system calls for each; benches/NOTES.md has what this probe saves).

use std::path::Path;

use super::segment::HEADER_BYTES;
use crate::StorageError;
use crate::blocking;
use crate::error::io_error;

/// Lets the executor's first direct open on the directory's device be that of a file with data.
///
/// # Errors
/// [`StorageError::Io`].
pub(super) async fn settle(dir: &Path, generation: u64, lane: u32) -> Result<(), StorageError> {
    let path = dir.join(format!("probe-{generation}-{lane}.free"));
    let file = path.clone();
    blocking::run(move || {
        let mut created = std::fs::File::create(&file)?;
        std::io::Write::write_all(&mut created, &[0; HEADER_BYTES])?;
        created.sync_all()
    })
    .await
    .map_err(|e| io_error(&path, "write", e))?;
    let opened = blocking::awake(glommio::io::DmaFile::open(&path)).await;
    // The answer is in glommio's table of devices now; the file is of no use any more.
    if let Ok(file) = opened {
        let _ = blocking::awake(file.close()).await;
    }
    std::fs::remove_file(&path).map_err(|e| io_error(&path, "remove", e))
}
