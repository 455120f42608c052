use crate::protocol::{Outcome, Request};
pub fn encode_request(_: &Request) -> bytes::Bytes {
    bytes::Bytes::new()
}
pub fn encode_outcome(_: &Outcome) -> bytes::Bytes {
    bytes::Bytes::new()
}
pub fn decode_request(_: bytes::Bytes) -> Result<Request, String> {
    Err(String::new())
}
pub fn decode_outcome(_: bytes::Bytes) -> Result<Outcome, String> {
    Err(String::new())
}
