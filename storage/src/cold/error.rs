//! What can go wrong with a cold store. Variants carry data; the texts say what to do.

use std::path::PathBuf;

use super::ColdKey;
use crate::StorageError;

/// See the module's head.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// No object has this key.
    #[error("{key} is not in the cold store")]
    NotFound {
        /// Which.
        key: ColdKey,
    },
    /// An object with other content has this key.
    #[error("{key} is in the cold store with other content; two clusters may share one place")]
    Conflict {
        /// Which.
        key: ColdKey,
    },
    /// The store refuses this server.
    #[error("the cold store denies {op}: {reason}. Check the credentials and what they may do")]
    Denied {
        /// What was tried.
        op: &'static str,
        /// The store's words.
        reason: String,
    },
    /// The store asks for fewer requests.
    #[error("the cold store asks to slow down ({op})")]
    Throttled {
        /// What was tried.
        op: &'static str,
    },
    /// The store does not answer, or not usefully; nobody knows whether it did what it was asked.
    #[error("the cold store is unavailable ({op}): {reason}")]
    Unavailable {
        /// What was tried.
        op: &'static str,
        /// Why.
        reason: String,
    },
    /// Bytes are not what was put.
    #[error("{key} in the cold store is damaged: {what}")]
    Corrupt {
        /// Which.
        key: ColdKey,
        /// What was found.
        what: String,
    },
    /// The store is full. Nothing was changed: trying again is safe.
    #[error("the cold store {path} is full: {source}")]
    NoSpace {
        /// The directory or file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Trying again cannot help: a setting is wrong.
    #[error("the cold store cannot be used: {what}")]
    Misconfigured {
        /// Which, and what to do.
        what: String,
    },
    /// The disk.
    #[error(transparent)]
    Storage(StorageError),
}

impl ColdError {
    /// Trying again later may help, without anybody doing anything but, perhaps, making room.
    pub fn is_transient(&self) -> bool {
        match self {
            ColdError::Throttled { .. }
            | ColdError::Unavailable { .. }
            | ColdError::NoSpace { .. } => true,
            ColdError::NotFound { .. }
            | ColdError::Conflict { .. }
            | ColdError::Denied { .. }
            | ColdError::Corrupt { .. }
            | ColdError::Misconfigured { .. }
            | ColdError::Storage(_) => false,
        }
    }

    /// One word for the metrics.
    pub fn word(&self) -> &'static str {
        match self {
            ColdError::NotFound { .. } => "not_found",
            ColdError::Conflict { .. } => "conflict",
            ColdError::Denied { .. } => "denied",
            ColdError::Throttled { .. } => "throttled",
            ColdError::Unavailable { .. } => "unavailable",
            ColdError::Corrupt { .. } => "corrupt",
            ColdError::NoSpace { .. } => "no_space",
            ColdError::Misconfigured { .. } => "misconfigured",
            ColdError::Storage(_) => "io",
        }
    }
}

impl From<StorageError> for ColdError {
    fn from(error: StorageError) -> ColdError {
        match error {
            StorageError::NoSpace { path, source, .. } => ColdError::NoSpace { path, source },
            other => ColdError::Storage(other),
        }
    }
}
