//! Calls that end.

use http_body_util::Full;

use super::*;
use crate::peer::calls::read_reply;
use crate::peer::grpc::request;
use crate::peer::message::Encoder;

#[test]
fn a_status_is_answered() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let request = StatusRequest {
            with_groups: true,
            ..StatusRequest::default()
        };
        let address = two.address.to_string();
        let reply = one.caller().status(&address, request).await.unwrap();
        assert_eq!(reply.groups_led, 5);
        assert_eq!(reply.node.unwrap(), two.node.hello());
        // An empty message is a message.
        let request = StatusRequest::default();
        let reply = one.caller().status(&address, request).await.unwrap();
        assert_eq!(reply.groups_led, 4);
    });
}

#[test]
fn a_refused_order_comes_back_with_its_text_and_a_panic_costs_one_call() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let address = two.address.to_string();
        let order = |node_id| AdminRequest {
            from: Some(Hello {
                node_id,
                ..Hello::default()
            }),
            ..AdminRequest::default()
        };
        let link = one.link_to(&two);
        until("the link is up", || link.is_up()).await;
        let error = one.caller().administer(&address, order(99)).await;
        assert_eq!(error.unwrap_err().code, Code::Unavailable);
        let error = one.caller().administer(&address, order(8)).await;
        let expected = GrpcError::new(Code::NotFound, "no node 8: ä%");
        assert_eq!(error.unwrap_err(), expected);
        assert!(link.is_up());
    });
}

#[test]
fn a_checkpoint_comes_in_parts_and_its_failure_as_a_status() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let address = two.address.to_string();
        let request = |group, cluster: &str| FetchCheckpointRequest {
            from: Some(Node::new(1, cluster).hello()),
            group,
            index: 40,
            ..FetchCheckpointRequest::default()
        };
        let caller = one.caller();
        let fetched = caller.fetch_checkpoint(&address, request(1, "a")).await;
        let mut parts = fetched.unwrap();
        for i in 0..40 {
            let part = parts.next().await.unwrap().unwrap();
            assert_eq!(part.position, i);
            assert_eq!(part.data, vec![i as u8; 1 << 20]);
        }
        assert_eq!(parts.next().await, Ok(None));

        let fetched = caller.fetch_checkpoint(&address, request(0, "a")).await;
        let mut parts = fetched.unwrap();
        assert!(parts.next().await.unwrap().is_some());
        assert!(parts.next().await.unwrap().is_some());
        let error = parts.next().await.unwrap_err();
        assert_eq!(error, GrpcError::new(Code::NotFound, "the file went"));

        let fetched = caller.fetch_checkpoint(&address, request(1, "b")).await;
        let error = fetched.unwrap().next().await.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("cluster_id"), "{error}");
    });
}

#[test]
fn a_range_is_given_to_a_node_of_the_same_cluster_only() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let address = two.address.to_string();
        let range = |cluster: &str| FetchBytesRequest {
            from: Some(Node::new(1, cluster).hello()),
            key: "abcdef".to_owned(),
            incarnation: 1,
            start: 1,
            end: 4,
            only_copies: false,
        };
        let caller = one.caller();
        let given = caller.fetch_bytes(&address, range("a")).await;
        assert_eq!(given.unwrap().data, "bcd");
        let refused = caller.fetch_bytes(&address, range("b")).await;
        assert_eq!(refused.unwrap_err().code, Code::FailedPrecondition);
        let mut nobody = range("a");
        nobody.from = None;
        let refused = caller.fetch_bytes(&address, nobody).await;
        assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
        let chunk = |cluster: &str, position| JudgeChunkRequest {
            from: Some(Node::new(1, cluster).hello()),
            position,
            ..JudgeChunkRequest::default()
        };
        for (position, is_lost) in [(7, true), (8, false)] {
            let judged = caller.judge_chunk(&address, chunk("a", position)).await;
            assert_eq!(judged.unwrap().is_lost, is_lost);
        }
        let refused = caller.judge_chunk(&address, chunk("b", 7)).await;
        assert_eq!(refused.unwrap_err().code, Code::FailedPrecondition);
    });
}

#[test]
fn nobody_at_the_address_is_unavailable() {
    on_executor(async || {
        let one = peer(1, "a", settings());
        for address in ["127.0.0.1:1", "no-such-host.invalid:80", "nonsense"] {
            let request = StatusRequest::default();
            let error = one.caller().status(address, request).await.unwrap_err();
            assert_eq!(error.code, Code::Unavailable, "{error}");
            assert!(error.message.contains(address), "{error}");
        }
    });
}

#[test]
fn an_answer_is_compressed_only_for_who_reads_zstd() {
    on_executor(async || {
        let (one, two) = (peer(1, "a", settings()), peer(2, "a", settings()));
        let address = two.address.to_string();
        for (accepted, is_compressed) in [
            (Some("identity,zstd"), true),
            (Some("identity, deflate, gzip"), false),
            (None, false),
        ] {
            let connected = one.caller().connect(&address).await;
            let (mut sender, _connected) = connected.unwrap();
            let asked = FetchCheckpointRequest {
                from: Some(one.node.hello()),
                group: 1,
                index: 1,
                ..FetchCheckpointRequest::default()
            };
            let body = Full::new(Encoder::new(None).encode(&asked));
            let mut request = request(&address, "FetchCheckpoint", false, body).unwrap();
            let headers = request.headers_mut();
            headers.remove("grpc-accept-encoding");
            if let Some(accepted) = accepted {
                headers.insert("grpc-accept-encoding", accepted.parse().unwrap());
            }
            let reply = sender.send_request(request).await.unwrap();
            assert_eq!(reply.headers()["grpc-accept-encoding"], "identity,zstd");
            assert_eq!(reply.headers().contains_key("grpc-encoding"), is_compressed);
            let mut messages = read_reply(reply, 2 << 20).unwrap();
            let part: CheckpointPart = messages.only().await.unwrap();
            assert_eq!(part.data, vec![0; 1 << 20]);
            let is_small = messages.arrived_bytes().get() < 10_000;
            assert_eq!(is_small, is_compressed);
        }
    });
}
