//! Streams for the console: their list over all groups, and requests to them, which are handed on to where this node's
//! clients connect, so that they mean the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_lite::Stream;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::service::{Answer, Service, json, text};
use crate::core::net::Socket;
use crate::http::ResponseBody;
use crate::http::path::path_of;
use crate::protocol::{BucketName, GroupTarget, Listed, Op, Outcome, Request as Asked};

/// Streams in one list.
const LIST_MAX: u32 = 200;

/// Where the paths of streams begin on this listener.
pub const PREFIX: &str = "/_/streams";

impl Service {
    /// `?bucket=&prefix=&after=`; without a bucket, the streams below /v1/stream/.
    pub(super) async fn list(&self, query: Option<&str>) -> Answer {
        let mut op = (String::new(), String::new(), None);
        for pair in query.unwrap_or_default().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(value) = decoded(value) else {
                return text(
                    StatusCode::BAD_REQUEST,
                    "the query is not percent-encoded UTF-8\n",
                );
            };
            match key {
                "bucket" => op.0 = value,
                "prefix" => op.1 = value,
                "after" if !value.is_empty() => op.2 = Some(value),
                _ => {}
            }
        }
        let (bucket, prefix, after) = op;
        let mut streams = Vec::new();
        let mut silent = Vec::new();
        for group in 1..=self.config.raft_group_count as u32 {
            let request = Asked {
                target: GroupTarget::Group(group),
                op: Op::List {
                    bucket: BucketName::from_stored(&bucket),
                    prefix: prefix.clone(),
                    after: after.clone(),
                    limit: LIST_MAX + 1,
                },
            };
            let core = self.gatherer.owners().of(group);
            match self.gatherer.ask(core, request).await {
                Some(Outcome::Listed(Listed { streams: some })) => streams.extend(some),
                _ => silent.push(group),
            }
        }
        streams.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let is_cut = streams.len() > LIST_MAX as usize;
        streams.truncate(LIST_MAX as usize);
        let shown = streams.iter().map(|(key, meta)| {
            serde_json::json!({
                "path": path_of(key),
                "id": key.id(),
                "content_type": meta.content_type.as_str(),
                "bytes": meta.tail.0,
                "closed": meta.closed,
            })
        });
        let value = serde_json::json!({
            "streams": shown.collect::<Vec<_>>(),
            "is_cut": is_cut,
            "groups_without_answer": silent,
        });
        json(StatusCode::OK, &value)
    }

    /// Hands a request on. What changes something needs the token.
    pub(super) async fn hand_on(&self, request: Request<Incoming>) -> Answer {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_read && let Some(refused) = self.refuse_change(&request) {
            return refused;
        }
        match self.try_hand_on(request).await {
            Ok(answer) => answer,
            Err(error) => text(StatusCode::BAD_GATEWAY, format!("{error}\n")),
        }
    }

    async fn try_hand_on(&self, request: Request<Incoming>) -> Result<Answer, String> {
        let address = reachable(self.client_address);
        let stream = Socket::connect(address).await;
        let stream = stream.map_err(|e| format!("{address}: {e}"))?;
        let handshake = hyper::client::conn::http1::handshake(stream).await;
        let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
        crate::core::tasks::spawn(connection).detach();
        let (mut head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("", |p| p.as_str());
        let target = target.strip_prefix(PREFIX).unwrap_or("/");
        head.uri = target.parse().map_err(|_| "a bad path".to_owned())?;
        head.headers.remove(hyper::header::AUTHORIZATION);
        head.headers.remove(hyper::header::CONNECTION);
        let host = HeaderValue::from_str(&address.to_string()).map_err(|e| e.to_string())?;
        head.headers.insert(HOST, host);
        let answer = sender.send_request(Request::from_parts(head, body)).await;
        let (head, body) = answer.map_err(|e| e.to_string())?.into_parts();
        let mut handed = Response::new(ResponseBody::Events(Box::pin(Pieces(body))));
        *handed.status_mut() = head.status;
        for (name, value) in &head.headers {
            let is_of_the_hop =
                ["connection", "transfer-encoding", "keep-alive"].contains(&name.as_str());
            // This page is nobody else's to read.
            let is_shared = name.as_str().starts_with("access-control-");
            if !is_of_the_hop && !is_shared {
                handed.headers_mut().append(name, value.clone());
            }
        }
        Ok(handed)
    }
}

/// The data of a body; what breaks off ends.
struct Pieces(Incoming);

impl Stream for Pieces {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            return match Pin::new(&mut self.0).poll_frame(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(data)),
                    Err(_) => continue,
                },
                Poll::Ready(_) => Poll::Ready(None),
            };
        }
    }
}

/// Where this node itself reaches its own listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A whole small body.
pub(super) async fn small(body: Incoming) -> Option<Bytes> {
    let body = http_body_util::Limited::new(body, 4096).collect().await;
    body.ok().map(http_body_util::Collected::to_bytes)
}
