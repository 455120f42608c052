//! The versions of persisted and sent messages, and the one check of them.

/// Newest version of [`crate::command::CommandBatch`] that this binary applies. It writes it once the cluster is at that
/// level: every member said that it can.
pub const COMMANDS: u32 = 5;

/// The level of a cluster whose meta group has noted none: its members did not tell each other what they can.
pub const LEVEL_FIRST: u32 = 3;

/// Newest version of [`crate::checkpoint::GroupManifest`] and of all that it refers to that this binary reads.
pub const CHECKPOINT: u32 = 4;

/// The version of checkpoints of a cluster at a level: below it, a node that goes back to the version before reads them.
pub fn checkpoint_at(level: u32) -> u32 {
    if level >= 4 { 4 } else { 3 }
}

/// The version of an encoded [`crate::command::CommandBatch`], without decoding the rest; 0: it is none.
pub fn of_batch(payload: &[u8]) -> u32 {
    // The key of field 1, a varint. Fields are encoded in the order of their numbers.
    let Some(mut rest) = payload.strip_prefix(&[0x08]) else {
        return 0;
    };
    let version = prost::encoding::decode_varint(&mut rest);
    version.map_or(0, |version| version.try_into().unwrap_or(u32::MAX))
}

/// Two nodes of these versions work together: in a rolling upgrade, versions differ by one.
pub fn are_neighbours(one: u32, other: u32) -> bool {
    one.abs_diff(other) <= 1
}

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

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::command::CommandBatch;

    #[test]
    fn the_version_of_a_batch_is_read_without_the_rest() {
        for version in [0, 1, 4, 300, u32::MAX] {
            let batch = CommandBatch {
                version,
                stamp_ms: 7,
                commands: Vec::new(),
            };
            assert_eq!(of_batch(&batch.encode_to_vec()), version);
        }
        assert_eq!(of_batch(&[]), 0);
        assert_eq!(of_batch(&[0x08]), 0);
    }

    #[test]
    fn versions_that_follow_one_another_are_neighbours() {
        assert!(are_neighbours(3, 4) && are_neighbours(4, 3) && are_neighbours(4, 4));
        assert!(!are_neighbours(3, 5));
    }
}
