//! Bytes that no peer would send. The node answers with a status or closes, and serves the next.

use bytes::{BufMut, Bytes, BytesMut};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use http_body_util::Full;
use prost::Message;
use raftproto::peer::{Envelope, envelope::Kind};

use super::*;
use crate::peer::calls::read_reply;
use crate::peer::connection::within;
use crate::peer::grpc::{Encoding, request};
use crate::peer::message::{Encoder, Messages, Side};
use crate::peer::outbox::{Outbox, OutboxBody};

fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flag);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

fn envelope(kind: Kind) -> Bytes {
    Encoder::new(None).encode(&Envelope { kind: Some(kind) })
}

/// The status that this body gets, in time.
async fn send(one: &Peer, two: &Peer, method: &str, body: Bytes) -> GrpcError {
    let sent = async { Ok(send_now(one, two, method, body).await) };
    let sent = within(Duration::from_secs(10), "an answer", sent).await;
    sent.unwrap_or_else(|late| late)
}

async fn send_now(one: &Peer, two: &Peer, method: &str, body: Bytes) -> GrpcError {
    let address = two.address.to_string();
    let connected = one.caller().connect(&address).await;
    let (mut sender, _connected) = connected.unwrap();
    let request = request(&address, method, true, Full::new(body)).unwrap();
    let reply = sender.send_request(request).await.unwrap();
    let mut messages = match read_reply(reply, 1 << 20) {
        Ok(messages) => messages,
        Err(error) => return error,
    };
    loop {
        match messages.next::<Envelope>().await {
            Ok(Some(_)) => {}
            Ok(None) => return GrpcError::new(Code::Unknown, "it ended well"),
            Err(error) => return error,
        }
    }
}

#[test]
fn broken_messages_get_their_status_and_cost_one_call() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let hello = || envelope(Kind::Hello(Node::new(1, "a").hello()));
        let after_hello = |bytes: Bytes| Bytes::from([hello(), bytes].concat());
        let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 1).unwrap();
        assert!(bomb.len() < 100_000);
        let too_long = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        let table = [
            ("no message", Bytes::new(), Code::InvalidArgument),
            (
                "noise",
                Bytes::from_static(b"GET / HTTP/1.1\r\n"),
                Code::Internal,
            ),
            ("a flag", framed(2, b""), Code::Internal),
            ("too long", too_long, Code::ResourceExhausted),
            (
                "half a header",
                Bytes::from_static(&[0, 0, 0]),
                Code::Internal,
            ),
            ("half a message", hello().slice(..20), Code::Internal),
            ("no protobuf", framed(0, &[0xff; 20]), Code::Internal),
            ("no zstd", framed(1, b"plain text"), Code::Internal),
            ("half a zstd", framed(1, &bomb[..100]), Code::Internal),
            ("a bomb", framed(1, &bomb), Code::ResourceExhausted),
            ("an empty envelope", framed(0, b""), Code::InvalidArgument),
            (
                "a batch",
                envelope(Kind::Batch(Batch::default())),
                Code::InvalidArgument,
            ),
        ];
        for (what, bytes, code) in table {
            let error = send(&one, &two, "Exchange", bytes.clone()).await;
            assert_eq!(error.code, code, "{what}: {error}");
            if ["no message", "an empty envelope", "a batch"].contains(&what) {
                continue;
            }
            let error = send(&one, &two, "Exchange", after_hello(bytes)).await;
            assert_eq!(error.code, code, "after the introduction, {what}: {error}");
        }
        let twice = after_hello(hello());
        let error = send(&one, &two, "Exchange", twice).await;
        assert_eq!(error.code, Code::InvalidArgument);
        let error = send(&one, &two, "Exchange", hello()).await;
        assert_eq!(error.message, "it ended well");
        let link = one.link_to(&two);
        until("the node serves", || link.is_up()).await;
        assert!(two.node.batches.borrow().iter().all(|(_, b)| b.alive));
    });
}

#[test]
fn single_calls_have_one_message_and_a_known_name() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let long = framed(0, &vec![0; 2 << 20]);
        let two_messages = Bytes::from([framed(0, b""), framed(0, b"")].concat());
        let table = [
            ("Status", Bytes::new(), Code::Internal),
            ("Status", two_messages, Code::Internal),
            ("Status", framed(0, &[0xff; 9]), Code::Internal),
            ("Status", long, Code::ResourceExhausted),
            ("FetchCheckpoint", framed(0, b""), Code::InvalidArgument),
            ("Reboot", framed(0, b""), Code::Unimplemented),
            ("", Bytes::new(), Code::Unimplemented),
        ];
        for (method, bytes, code) in table {
            let error = send(&one, &two, method, bytes).await;
            assert_eq!(error.code, code, "{method}: {error}");
        }
    });
}

#[test]
fn what_is_no_http2_is_closed() {
    on_executor(async || {
        let two = peer(2, "a", quick());
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings_frame = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let noise = [0xa5; 3000];
        let table: [(&str, Vec<u8>); 5] = [
            ("silence", vec![]),
            ("HTTP/1", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
            ("noise", noise.to_vec()),
            ("noise after the preface", [&preface[..], &noise].concat()),
            (
                "a preface and no call",
                [&preface[..], &settings_frame].concat(),
            ),
        ];
        for (what, bytes) in table {
            let mut stream = TcpStream::connect(two.address).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            let closed = async {
                // A reset is an end too.
                let _ = stream.read_to_end(&mut answer).await;
                true
            };
            let late = async {
                glommio::timer::sleep(Duration::from_secs(3)).await;
                false
            };
            assert!(closed.or(late).await, "{what} is still connected");
        }
        let caller = two.caller();
        let address = two.address.to_string();
        let status = caller.status(&address, StatusRequest::default()).await;
        status.unwrap();
    });
}

#[test]
fn who_introduced_itself_and_fell_silent_is_down() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", quick()), peer(2, "a", quick()));
        let address = two.address.to_string();
        let hello = envelope(Kind::Hello(one.node.hello()));
        let outbox = Outbox::new(hello, &one.transport.settings, Default::default());
        let connected = one.caller().connect(&address).await;
        let (mut sender, _connected) = connected.unwrap();
        let body = OutboxBody(Rc::new(outbox));
        let request = request(&address, "Exchange", true, body).unwrap();
        let reply = sender.send_request(request).await.unwrap();
        let mut messages = read_reply(reply, 1 << 20).unwrap();
        assert!(messages.next::<Envelope>().await.unwrap().is_some());
        assert_eq!(*two.node.incoming.borrow(), [(1, true)]);
        let error = messages.next::<Envelope>().await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
        assert_eq!(*two.node.incoming.borrow(), [(1, true), (1, false)]);
        assert_eq!(logged("event=peer_silent node=1").len(), 1);
    });
}

#[test]
fn any_bytes_are_a_message_or_an_error() {
    on_executor(async || {
        let hello = envelope(Kind::Hello(Node::new(1, "a").hello()));
        // Each single bit of a good message turned, in each encoding.
        for encoding in [Encoding::Identity, Encoding::Zstd] {
            for bit in 0..hello.len() * 8 {
                let mut bytes = hello.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let body = Full::new(Bytes::from(bytes));
                let side = Side::Caller;
                let mut messages = Messages::new(body, side, encoding, 1 << 20);
                if let Ok(Some(envelope)) = messages.next::<Envelope>().await {
                    assert!(envelope.encoded_len() < 1000);
                }
            }
        }
    });
}
