//! Requests and outcomes as nodes forward them.

use bytes::Bytes;
use ursula::wire as encoding;

/// What is taken is sent on as it was understood.
pub fn wire(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(request) = encoding::decode_request(bytes.clone()) {
        let encoded = |request| {
            let pieces = encoding::encode_request(request).expect("it was read");
            Bytes::from(pieces.concat())
        };
        let again = encoded(&request);
        let read = encoding::decode_request(again.clone()).expect("own bytes");
        assert_eq!(encoded(&read), again);
    }
    if let Ok(outcome) = encoding::decode_outcome(bytes.clone()) {
        let again = encoding::encode_outcome(&outcome);
        let read = encoding::decode_outcome(again.clone()).expect("own bytes");
        assert_eq!(encoding::encode_outcome(&read), again);
    }
}
