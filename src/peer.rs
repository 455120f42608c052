use raftproto::peer::*;
pub enum BatchItem {
    Raft(RaftMessage),
    Request(ForwardedRequest),
    Reply(ForwardedReply),
}
pub struct Link;
impl Link {
    pub fn post(&self, i: BatchItem) -> Result<(), BatchItem> {
        Err(i)
    }
    pub fn is_up(&self) -> bool {
        false
    }
    pub fn client_address(&self) -> Option<String> {
        None
    }
}
