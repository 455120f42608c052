//! Answers that a leader need not have. Whenever something is committed, raft-rs tells the followers at once, in a message
//! without entries, and each answers that it has what it has said before that it has: half of all messages between the nodes.
//!
//! Such an answer is left out. It is missed only where the one before it was lost, and then the leader asks again with its next
//! heartbeats, in messages that tell of no commit and are answered. The shell lets such messages themselves wait for others that
//! go the same way.

use raft::prelude::{Message, MessageType};
use raftproto::peer::RaftMessage;

use super::raft::Raft;

/// Up to where a follower has told a leader that the log is on its disk, or will as soon as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Acknowledged {
    term: u64,
    leader: u64,
    index: u64,
}

/// A message that may only tell of a commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notice {
    from: u64,
    index: u64,
    committed_before: u64,
}

/// A message that says nothing but up to where the log is committed. It can wait a moment: who must know it at once is told
/// with the answer that needs it.
pub fn is_commit_notice(message: &RaftMessage) -> bool {
    message.r#type == MessageType::MsgAppend as u32 && message.entries.is_empty()
}

/// A message that means the same whatever was said before it, and that elections and leases depend on.
pub fn may_overtake(message: &RaftMessage) -> bool {
    use MessageType as T;
    let kinds = [T::MsgHeartbeat, T::MsgHeartbeatResponse];
    kinds.iter().any(|kind| message.r#type == *kind as u32)
}

/// An answer that says nothing of what must be on disk, if the term is: that a leader was heard, or would be voted for. raft-rs has all
/// that a follower says wait for what came before it. A sync that takes longer than the election time-out would so cost a leader its
/// quorum, and a stop in good order, after which both that stay are needed, would be followed by one election after the other.
pub(super) fn waits_for_no_disk(message: &RaftMessage) -> bool {
    use MessageType as T;
    let kinds = [T::MsgHeartbeatResponse, T::MsgRequestPreVoteResponse];
    kinds.iter().any(|kind| message.r#type == *kind as u32)
}

impl Raft {
    /// A message of a leader without entries.
    pub(super) fn commit_notice(&self, message: &Message) -> Option<Notice> {
        let is_empty = message.msg_type() == MessageType::MsgAppend && message.entries.is_empty();
        is_empty.then_some(Notice {
            from: message.from,
            index: message.index,
            committed_before: self.commit(),
        })
    }

    /// Takes back the answer to a message that was stepped, if it told of a commit and the answer says nothing new.
    pub(super) fn leave_unanswered(&mut self, notice: Notice) {
        let known = self.acknowledged;
        let is_known =
            (known.term, known.leader) == (self.term(), notice.from) && known.index >= notice.index;
        if !is_known || self.commit() <= notice.committed_before {
            return;
        }
        let messages = &mut self.node.raft.msgs;
        let is_answer = |m: &Message| {
            m.msg_type() == MessageType::MsgAppendResponse
                && !m.reject
                && (m.to, m.index) == (notice.from, notice.index)
        };
        if messages.last().is_some_and(is_answer) {
            messages.pop();
        }
    }

    /// These messages leave now, or once something is on disk.
    pub(super) fn note_answers(&mut self, messages: &[RaftMessage]) {
        let is_answer =
            |m: &&RaftMessage| m.r#type == MessageType::MsgAppendResponse as u32 && !m.reject;
        for answer in messages.iter().filter(is_answer) {
            let known = self.acknowledged;
            let is_same = (known.term, known.leader) == (answer.term, answer.to);
            if !is_same || known.index < answer.index {
                self.acknowledged = Acknowledged {
                    term: answer.term,
                    leader: answer.to,
                    index: answer.index,
                };
            }
        }
    }

    /// For each replica what it has, and what it is sent next.
    #[cfg(test)]
    pub(super) fn sent_next(&self) -> Vec<(u64, u64)> {
        let all = self.node.raft.prs().iter();
        all.map(|(_, p)| (p.matched, p.next_idx)).collect()
    }
}
