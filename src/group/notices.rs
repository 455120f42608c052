//! Messages between replicas that need not go at once. Whenever something is committed, raft-rs tells the followers, in a message
//! without entries: a quarter of all messages between the nodes, and each wakes its receiver if it goes alone.

use raft::prelude::MessageType;
use raftproto::peer::RaftMessage;

/// A message that says nothing but up to where the log is committed. It can wait a moment: who must know it at once is told
/// with the answer that needs it.
pub fn is_commit_notice(message: &RaftMessage) -> bool {
    message.r#type == MessageType::MsgAppend as u32 && message.entries.is_empty()
}
