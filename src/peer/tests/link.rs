//! What a link promises: order, completeness, bounds, and that it comes back.

use bytes::Bytes;
use hyper::rt::Executor;
use raftproto::peer::{Envelope, RaftMessage, envelope::Kind};

use super::*;
use crate::core::hyper_rt::CoreTimer;
use crate::peer::grpc::{Encoding, ReplyBody, response};
use crate::peer::message::{Encoder, Messages, Side};
use crate::peer::{BatchItem, LinkStats, Question};

fn raft(index: u64, payload: Bytes) -> BatchItem {
    BatchItem::Raft(RaftMessage {
        index,
        context: Some(payload),
        ..RaftMessage::default()
    })
}

/// Bytes that no compressor makes smaller.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut x = seed | 1;
    let byte = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    std::iter::repeat_with(byte).take(length).collect()
}

async fn post(link: &Link, mut item: BatchItem) {
    while let Err(back) = link.post(item) {
        assert!(link.is_up(), "the link broke: {}", link.trouble());
        item = back;
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
}

fn received(peer: &Peer) -> usize {
    let batches = peer.node.batches.borrow();
    batches.iter().map(|(_, b)| b.raft.len()).sum()
}

#[test]
fn all_that_is_posted_arrives_in_order() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let link = one.link_to(&two);
        assert!(link.post(raft(0, Bytes::new())).is_err(), "it is down yet");
        until("the link is up", || link.is_up()).await;
        let mut sent = Vec::new();
        for index in 0..10_000u64 {
            let payload = match index {
                2_500 | 2_600 => Bytes::from(vec![7; 1 << 20]),
                5_000 | 7_500 => noise(8 << 20, index),
                _ => noise(300, index),
            };
            sent.push(payload.clone());
            post(&link, raft(index, payload)).await;
            glommio::yield_if_needed().await;
        }
        until("all arrived", || received(&two) == 10_000).await;
        let batches = two.node.batches.borrow();
        let messages = batches.iter().flat_map(|(from, batch)| {
            assert_eq!(*from, 1);
            &batch.raft
        });
        for (index, (message, payload)) in messages.zip(&sent).enumerate() {
            assert_eq!(message.index, index as u64);
            assert!(
                message.context.as_ref() == Some(payload),
                "payload {index} differs"
            );
        }
        let LinkStats {
            bytes_sent,
            items_sent,
            batches_sent,
            ..
        } = link.stats();
        assert_eq!(items_sent.get(), 10_000);
        assert!(
            bytes_sent.get() < 20 << 20,
            "what is compressible and not too long is compressed"
        );
        assert!(batches_sent.get() < 5_000, "what gathers goes together");
        assert_eq!(link.queued_bytes(), 0);
    });
}

#[test]
fn what_others_say_overtakes_a_long_message() {
    on_executor(async || {
        for takes_parts in [true, false] {
            let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
            two.node.hello.borrow_mut().takes_parts = takes_parts;
            let link = one.link_to(&two);
            until("the link is up", || link.is_up()).await;
            let of = |group, index, length| RaftMessage {
                group,
                index,
                context: Some(noise(length, index)),
                ..RaftMessage::default()
            };
            let sent = [
                BatchItem::Raft(of(1, 1, 8 << 20)),
                // As a follower that is probed is sent it again.
                BatchItem::Raft(of(1, 1, 8 << 20)),
                BatchItem::Raft(of(1, 2, 10)),
                BatchItem::Pulse(of(1, 3, 10)),
                BatchItem::Raft(of(2, 4, 10)),
            ];
            for item in sent {
                link.post(item).unwrap();
            }
            until("all arrived", || received(&two) == 4).await;
            let batches = two.node.batches.borrow();
            let messages = batches.iter().flat_map(|(_, batch)| &batch.raft);
            let order: Vec<u64> = messages.clone().map(|m| m.index).collect();
            let expected = if takes_parts {
                [3, 4, 1, 2]
            } else {
                [1, 2, 3, 4]
            };
            assert_eq!(order, expected);
            let long = messages.max_by_key(|m| m.context.as_ref().map(Bytes::len));
            assert!(long.and_then(|m| m.context.clone()) == Some(noise(8 << 20, 1)));
            assert_eq!(link.queued_bytes(), 0);
        }
    });
}

#[test]
fn a_long_queue_is_sent_as_several_batches() {
    on_executor(async || {
        let small = PeerSettings {
            batch_bytes_max: 10_000,
            ..settings()
        };
        let (one, two) = (peer(1, "a", small), peer(2, "a", settings()));
        let link = one.link_to(&two);
        until("the link is up", || link.is_up()).await;
        for index in 0..100 {
            let question = Question {
                group: 1,
                token: index,
                // The last goes by itself.
                request: match index {
                    98 => vec![noise(500, index), noise(20_000, 0), noise(500, 0)],
                    99 => vec![noise(500, index), noise(2 << 20, 0), noise(500, 0)],
                    _ => vec![noise(1000, index)],
                },
            };
            link.post(BatchItem::Request(question)).unwrap();
        }
        let tokens = || -> Vec<u64> {
            let batches = two.node.batches.borrow();
            let requests = batches.iter().flat_map(|(_, b)| &b.requests);
            requests.map(|r| r.token).collect()
        };
        until("all arrived", || tokens().len() == 100).await;
        assert_eq!(tokens(), (0..100).collect::<Vec<_>>());
        for (_, batch) in two.node.batches.borrow().iter() {
            assert!(batch.requests.len() <= 9);
        }
    });
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_sides_say_why() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "b", settings()));
        let link = one.link_to(&two);
        let text = "cluster_id is \"b\" here and \"a\" at node 1 (address-1)";
        until("it is refused", || link.trouble().contains(text)).await;
        // Some attempts later it has been told once on each side.
        glommio::timer::sleep(Duration::from_millis(500)).await;
        assert!(!link.is_up());
        assert_eq!(logged("event=peer_refused node=1").len(), 1);
        assert_eq!(logged("event=peer_link_down node=2").len(), 1);
        // As a text in quotes.
        assert_eq!(logged(&text.replace('"', "\\\"")).len(), 2);
        assert!(one.node.links.borrow().is_empty());
        assert!(two.node.incoming.borrow().is_empty());
        // Whoever sets it right is heard with the next attempt.
        two.node.hello.borrow_mut().cluster_id = "a".into();
        until("the link is up", || link.is_up()).await;
        assert_eq!(link.trouble(), "");
    });
}

#[test]
fn a_node_that_is_not_admitted_or_not_expected_is_refused() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        two.node.refuses.replace(Some("another directory".into()));
        let link = one.link_to(&two);
        until("it is refused", || {
            link.trouble().contains("another directory")
        })
        .await;
        two.node.refuses.replace(None);
        let address = two.address.to_string();
        let wrong = Link::start(&one.transport, 3, &address);
        let text = "node_id is 2 at address-2, where node 3 is expected";
        until("it is refused", || wrong.trouble().contains(text)).await;
        until("the link is up", || link.is_up()).await;
    });
}

#[test]
fn a_link_comes_back_with_its_peer() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let link = one.link_to(&two);
        until("the link is up", || link.is_up()).await;
        two.transport.stop.raise();
        until("the link is down", || !link.is_up()).await;
        assert!(
            link.trouble().contains("the node stops"),
            "{}",
            link.trouble()
        );
        assert!(link.post(raft(1, Bytes::new())).is_err());
        assert_eq!(*two.node.incoming.borrow(), [(1, true), (1, false)]);
        glommio::timer::sleep(Duration::from_millis(300)).await;
        let again = peer_at(two.address, Node::new(2, "a"), settings());
        until("the link is up again", || link.is_up()).await;
        assert_eq!(*one.node.links.borrow(), [Some(2), None, Some(2)]);
        assert_eq!(link.stats().reconnects.get(), 1);
        post(&link, raft(1, Bytes::new())).await;
        until("it is heard", || received(&again) == 1).await;
        drop(link);
        until("its end is told", || one.node.links.borrow().len() == 4).await;
        until("its end is seen", || {
            again.node.incoming.borrow().len() == 2
        })
        .await;
    });
}

#[test]
fn an_idle_link_stays_up_and_a_stopped_one_ends() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", quick()), peer(2, "a", quick()));
        let link = one.link_to(&two);
        until("the link is up", || link.is_up()).await;
        glommio::timer::sleep(quick().silence * 3).await;
        assert_eq!(*one.node.links.borrow(), [Some(2)]);
        assert_eq!(*two.node.incoming.borrow(), [(1, true)]);
        let alive = two.node.batches.borrow().len();
        assert!((5..=9).contains(&alive), "{alive} signs of life");
        one.transport.stop.raise();
        until("the link is down", || !link.is_up()).await;
        assert_eq!(*one.node.links.borrow(), [Some(2), None]);
        until("its end is seen", || two.node.incoming.borrow().len() == 2).await;
    });
}

/// Introduces itself as node 2 and then reads nothing.
async fn deaf(address: SocketAddr, timeouts: Rc<Timeouts>) -> SocketAddr {
    let listener = listener(address).unwrap();
    let address = listener.local_addr().unwrap();
    LocalExec.execute(async move {
        let stream = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(async |request: hyper::Request<_>| {
            let body: hyper::body::Incoming = request.into_body();
            let messages = Messages::new(body, Side::Caller, Encoding::Zstd, 1 << 20);
            let hello = Envelope {
                kind: Some(Kind::Hello(Node::new(2, "a").hello())),
            };
            let hello = Encoder::new(None).encode(&hello);
            let frames =
                stream::unfold(
                    (Some(hello), messages),
                    async |(hello, messages)| match hello {
                        Some(hello) => Some((Ok(hello), (None, messages))),
                        None => std::future::pending().await,
                    },
                );
            let response = response(false, ReplyBody::new(frames));
            Ok::<_, std::convert::Infallible>(response)
        });
        hyper::server::conn::http2::Builder::new(LocalExec)
            .timer(CoreTimer(timeouts))
            .serve_connection(stream, service)
            .await
            .unwrap();
    });
    address
}

async fn link_to_deaf(one: &Peer) -> Link {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = deaf(any, one.transport.timeouts.clone()).await;
    let link = Link::start(&one.transport, 2, &address.to_string());
    until("the link is up", || link.is_up()).await;
    link
}

/// As a version before does, to which signs of life were batches like others.
#[test]
fn a_link_to_one_that_answers_no_sign_of_life_stays_up() {
    on_executor(async || {
        let one = peer(1, "a", quick());
        let _link = link_to_deaf(&one).await;
        glommio::timer::sleep(quick().silence * 3).await;
        assert_eq!(*one.node.links.borrow(), [Some(2)]);
    });
}

#[test]
fn a_peer_that_reads_nothing_fills_a_bounded_queue() {
    on_executor(async || {
        let one = peer(1, "a", settings());
        let link = link_to_deaf(&one).await;
        let max = one.transport.settings.queue_bytes_max;
        let payload = noise(1 << 20, 3);
        let mut accepted = 0u64;
        for _ in 0..200 {
            if link.post(raft(accepted, payload.clone())).is_ok() {
                accepted += 1;
            }
            assert!(link.queued_bytes() < max + (2 << 20));
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        // The queue, a batch or two in HTTP/2, and its window.
        assert!((32..=48).contains(&accepted), "{accepted} MiB accepted");
        assert!(link.stats().refused_full.get() > 100);
        assert!(link.is_up(), "slow is not down");
    });
}

#[test]
fn an_item_that_no_message_can_hold_is_given_back() {
    on_executor(async || {
        let small = PeerSettings {
            message_bytes_max: 100_000,
            ..settings()
        };
        let (one, two) = (peer(1, "a", small.clone()), peer(2, "a", small));
        let link = one.link_to(&two);
        until("the link is up", || link.is_up()).await;
        assert!(link.post(raft(1, noise(100_000, 1))).is_err());
        // The longest that passes here passes there too.
        let mut length = 100_000;
        while link.post(raft(2, noise(length, 1))).is_err() {
            length -= 1;
        }
        until("it arrived", || received(&two) == 1).await;
        assert!(length > 99_800);
    });
}

#[test]
fn who_takes_a_connection_and_says_nothing_is_given_up() {
    on_executor(async || {
        for (settings, text) in [
            (settings(), "the introduction took more than 1000 ms"),
            (quick(), "keep-alive timed out"),
        ] {
            let one = peer(1, "a", settings);
            // The system accepts for it.
            let mute = listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let address = mute.local_addr().unwrap().to_string();
            let link = Link::start(&one.transport, 2, &address);
            until("it is given up", || !link.trouble().is_empty()).await;
            assert!(link.trouble().contains(text), "{}", link.trouble());
            let mut stream = mute.accept().await.unwrap();
            let mut bytes = Vec::new();
            let read = futures_lite::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
            read.unwrap();
            assert!(bytes.starts_with(b"PRI"), "and its connection closed");
        }
    });
}

#[test]
fn who_is_heard_of_is_tried_at_once() {
    on_executor(async || {
        let patient = PeerSettings {
            backoff_min: Duration::from_secs(1000),
            backoff_max: Duration::from_secs(1000),
            ..settings()
        };
        let one = peer(1, "a", patient);
        let late = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = late.local_addr().unwrap();
        drop(late);
        let link = Link::start(&one.transport, 2, &address.to_string());
        until("nobody is there", || !link.trouble().is_empty()).await;
        let _two = peer_at(address, Node::new(2, "a"), settings());
        link.hurry();
        until("the link is up", || link.is_up()).await;
    });
}
