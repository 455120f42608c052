//! Requests and outcomes as bytes, on their way between nodes: `raftproto/proto/wire.proto`.
//!
//! What comes in was written by another node, perhaps a newer one, so decoding checks whatever the types of
//! [`protocol`](crate::protocol) promise and answers the rest with a [`WireError`] that names the field. Bodies and hot
//! bytes are slices of the input, not copies. The version is agreed on when nodes meet (`Hello` of `peer.proto`), so a
//! message carries none.

mod fields;
mod members;
mod outcome;
mod refusal;
mod request;
#[cfg(test)]
mod tests;

pub use members::change;
pub use outcome::{decode_outcome, encode_outcome};
pub use request::{decode_request, encode_request};

/// Why bytes are no request or outcome, or a request has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not protobuf, or a field of another type.
    #[error("not a message of wire.proto: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A field that must be set is not, or its kind is not among those that this binary knows: protobuf shows both as
    /// the same.
    #[error("{field} is missing, or of a kind that only a newer ursula knows")]
    Missing {
        /// Message and field.
        field: &'static str,
    },
    /// A field has a value that its meaning excludes.
    #[error("{field} has a value that it cannot have")]
    Invalid {
        /// Message and field.
        field: &'static str,
    },
    /// The request is for the own node alone. A mistake of the sender, found before anything is sent.
    #[error("{op} names a core of this node and is never sent to another one")]
    Local {
        /// The operation.
        op: &'static str,
    },
}
