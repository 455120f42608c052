//! The messages that ursula persists and sends, generated from `proto/`.
//!
//! Every one of them carries a version; [`version`] holds the one check.

pub mod pieces;
pub mod version;

/// What is proposed to a group.
#[allow(clippy::all, reason = "generated")]
pub mod command {
    include!(concat!(env!("OUT_DIR"), "/ursula.command.v1.rs"));
}

/// What a group's checkpoint is made of.
#[allow(clippy::all, reason = "generated")]
pub mod checkpoint {
    include!(concat!(env!("OUT_DIR"), "/ursula.checkpoint.v1.rs"));
}

/// What is shipped to the cold store, so that a cluster can be built anew.
#[allow(clippy::all, reason = "generated")]
pub mod backup {
    include!(concat!(env!("OUT_DIR"), "/ursula.backup.v1.rs"));
}

/// What nodes say to each other.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/ursula.peer.v1.rs"));
}

/// Requests and outcomes on their way between nodes.
#[allow(clippy::all, missing_docs, reason = "generated")]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/ursula.wire.v1.rs"));
}
