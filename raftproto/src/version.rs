//! The versions of persisted and sent messages, and the one check of them.

/// Version of [`crate::command::CommandBatch`] that this binary writes.
pub const COMMANDS: u32 = 3;

/// Version of [`crate::checkpoint::GroupManifest`] and of all that it refers to.
pub const CHECKPOINT: u32 = 3;

/// Version of [`crate::backup::Index`] and of all that it refers to.
pub const BACKUP: u32 = 1;

/// Version of the protocol between nodes, [`crate::peer`].
pub const PEER: u32 = 1;

/// A message was written by a newer ursula than this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} has version {found}, this ursula reads up to {known}: start a newer ursula on this data"
)]
pub struct UnknownVersion {
    /// Which message.
    pub what: &'static str,
    /// The version found.
    pub found: u32,
    /// The newest version that this binary reads.
    pub known: u32,
}

/// Refuses a message of a version that this binary does not know.
///
/// # Errors
/// [`UnknownVersion`] if `found` is zero or above `known`.
pub fn check(what: &'static str, found: u32, known: u32) -> Result<(), UnknownVersion> {
    if found == 0 || found > known {
        return Err(UnknownVersion { what, found, known });
    }
    Ok(())
}
