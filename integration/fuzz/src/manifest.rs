//! A checkpoint's parts: the manifest of a group, its state, and the states of its streams.

use bytes::Bytes;
use prost::Message;
use raftproto::checkpoint::{GroupManifest, GroupState, StreamState};
use ursula::group::{Machine, combine_stream_states};
use ursula::protocol::StreamKey;

/// They decode or are refused, and what decodes can be started from.
pub fn manifest(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = GroupState::decode(bytes.clone());
    let _ = StreamState::decode(bytes.clone());
    let Ok(manifest) = GroupManifest::decode(bytes) else {
        return;
    };
    let state = &manifest.group_state;
    let joined = combine_stream_states(Some(state), state);
    for value in [state.to_vec(), joined] {
        // Group 0 has the buckets, the slots and the nodes too.
        for group in [0, 1] {
            let streams = [(StreamKey::from_stored("/a"), value.clone())];
            if let Ok(machine) = Machine::load(group, state, streams.into_iter()) {
                assert_eq!(machine.state_hash(), machine.state_hash());
            }
        }
    }
}
