//! What readers are told of a chunk that its object in the cold store does not hold, or whose object is gone: to come back while copies
//! are looked for, and which bytes are lost once all nodes were asked. The group's leader looks for copies (`rescue.rs`), so it
//! knows; its other cores and the other nodes ask it, so that all answer alike.

use std::rc::Rc;

use raftproto::peer::JudgeChunkRequest;

use super::cold_cache::ChunkId;
use super::signal::slot;
use super::{Core, Message};
use crate::group::ChunkVerdict;

impl Core {
    /// What is known of a chunk that its object does not hold; if that is nothing yet, it is seen to. The group's leader knows: on
    /// another node only where that may be asked.
    pub(super) async fn judge_chunk(
        self: &Rc<Self>,
        chunk: ChunkId,
        may_ask: bool,
    ) -> ChunkVerdict {
        let owner = self.owner(chunk.group);
        if owner == self.id {
            return self.judge_own(chunk, may_ask).await;
        }
        let id = self.next_id();
        let (answer, filled) = slot();
        self.tier.judging.borrow_mut().insert(id, answer);
        if self
            .post(owner, Message::JudgeChunk { id, chunk, may_ask })
            .is_err()
        {
            // There is no room for it now: the next reader asks again.
            self.tier.judging.borrow_mut().remove(&id);
        }
        filled.await.unwrap_or(ChunkVerdict::Sought)
    }

    /// Another core asks; it is always answered.
    pub(super) fn judge_for_core(self: &Rc<Self>, to: u16, id: u64, chunk: ChunkId, may_ask: bool) {
        let core = self.clone();
        self.spawn_cold(async move {
            let verdict = core.judge_own(chunk, may_ask).await;
            core.post_answer(to, Message::ChunkJudged { id, verdict });
        });
    }

    async fn judge_own(self: &Rc<Self>, chunk: ChunkId, may_ask: bool) -> ChunkVerdict {
        let judged = {
            let groups = self.groups.borrow();
            let group = groups.get(&chunk.group);
            group.and_then(|g| g.judge_chunk(chunk.pack, chunk.position))
        };
        if let Some(verdict) = judged {
            // Also what is lost: a copy may have come since.
            if verdict != ChunkVerdict::Unneeded {
                self.see_to_object(chunk);
            }
            return verdict;
        }
        let leader = self.leader_address(chunk.group).filter(|_| may_ask);
        let Some(address) = leader else {
            return ChunkVerdict::Sought;
        };
        let request = JudgeChunkRequest {
            from: Some(self.hello()),
            group: chunk.group,
            pack: Some(chunk.pack.to_message()),
            position: chunk.position,
        };
        match self.caller.judge_chunk(&address, request).await {
            Ok(reply) if reply.is_lost => ChunkVerdict::Lost,
            Ok(reply) if reply.is_unneeded => ChunkVerdict::Unneeded,
            Ok(_) => ChunkVerdict::Sought,
            Err(error) => {
                log::info!("event=chunk_not_judged address={address} {error}");
                ChunkVerdict::Sought
            }
        }
    }
}
