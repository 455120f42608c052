//! rusoto's requests on the HTTP client that was handed in: signs, sends, counts, and keeps what rusoto drops.
//! One dispatcher per attempt. rusoto wants `Send`; all of it stays on one executor, which `SendWrapper` makes sure of.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::StreamExt;
use http02::{HeaderMap, HeaderValue, StatusCode, header::HeaderName};
use rusoto_core::request::{
    DispatchSignedRequest, DispatchSignedRequestFuture, HttpDispatchError, HttpResponse,
};
use rusoto_core::{Client, Region};
use rusoto_credential::AwsCredentials;
use rusoto_s3::S3Client;
use rusoto_signature::{SignedRequest, SignedRequestPayload};
use send_wrapper::SendWrapper;

use super::super::{ColdRequest, ColdVerb};
use super::Shared;
use super::failure::{Answer, Failure};
use super::http::{HttpReply, HttpRequest};

/// What one attempt is about.
pub(super) struct Attempt {
    pub verb: ColdVerb,
    /// Longest answer.
    pub answer_bytes_max: u64,
    /// Bytes of the answer that the time-out allows for.
    pub expected_bytes: u64,
    /// Refused where the key is taken.
    pub is_create_only: bool,
}

/// Where the dispatcher puts why it failed.
pub(super) type Failed = Rc<RefCell<Option<Failure>>>;

struct Dispatcher(SendWrapper<Rc<Inner>>);

struct Inner {
    shared: Rc<Shared>,
    attempt: Attempt,
    failed: Failed,
}

/// A client of rusoto for one attempt.
pub(super) fn client(shared: &Rc<Shared>, attempt: Attempt) -> (S3Client, Failed) {
    let failed = Failed::default();
    let inner = Rc::new(Inner {
        shared: shared.clone(),
        attempt,
        failed: failed.clone(),
    });
    let region = Region::Custom {
        name: shared.config.region.clone(),
        endpoint: shared.config.endpoint.clone(),
    };
    let client = Client::new_not_signing(Dispatcher(SendWrapper::new(inner)));
    (S3Client::new_with_client(client, region), failed)
}

impl DispatchSignedRequest for Dispatcher {
    fn dispatch(&self, request: SignedRequest, _: Option<Duration>) -> DispatchSignedRequestFuture {
        let inner = Rc::clone(&self.0);
        Box::pin(SendWrapper::new(async move {
            let failed = inner.failed.clone();
            inner.send(request).await.map_err(|failure| {
                let message = format!("{failure:?}");
                *failed.borrow_mut() = Some(failure);
                HttpDispatchError::new(message)
            })
        }))
    }
}

impl Inner {
    async fn send(&self, mut request: SignedRequest) -> Result<HttpResponse, Failure> {
        let shared = &self.shared;
        let config = &shared.config;
        if !config.is_path_style {
            let bucket = format!("/{}", config.bucket);
            if let Some(rest) = request.path.strip_prefix(&bucket) {
                request.path = if rest.is_empty() {
                    "/".to_owned()
                } else {
                    rest.to_owned()
                };
            }
            let host = request.hostname();
            request.set_hostname(Some(format!("{}.{host}", config.bucket)));
        }
        if self.attempt.is_create_only {
            request.add_header("if-none-match", "*");
        }
        let credentials = shared.credentials.get(&*shared.host, &*shared.http).await?;
        request.sign(&AwsCredentials::new(
            credentials.key_id.clone(),
            credentials.secret.clone(),
            credentials.token.clone(),
            None,
        ));
        let body = pieces(request.payload.take()).await?;
        let request = HttpRequest {
            method: method(&request.method),
            is_tls: request.scheme() == "https",
            authority: request.hostname(),
            target: target(&request),
            headers: headers(&request),
            body,
            answer_bytes_max: self.attempt.answer_bytes_max,
            timeout_ms: 0,
        };
        let reply = self.counted(request).await?;
        self.answer(reply)
    }

    async fn counted(&self, mut request: HttpRequest) -> Result<HttpReply, Failure> {
        let shared = &self.shared;
        let sent_bytes: u64 = request.body.iter().map(|p| p.len() as u64).sum();
        // A slow line may take its time for long bodies; a mebibyte in a second is the least.
        let body_ms = (sent_bytes + self.attempt.expected_bytes) / 1024;
        request.timeout_ms = shared.config.timeout_ms + body_ms;
        let began_us = shared.host.monotonic_us();
        let under_way = shared.in_flight.enter(&*shared.host);
        let reply = shared.http.send(request).await;
        drop(under_way);
        let (status, received_bytes) = match &reply {
            Ok(reply) => (status_word(reply.status), reply.body.len() as u64),
            Err(failure) => (failure.word(), 0),
        };
        shared.host.requested(ColdRequest {
            verb: self.attempt.verb,
            status,
            micros: shared.host.monotonic_us() - began_us,
            sent_bytes,
            received_bytes,
        });
        reply.map_err(Failure::Http)
    }

    fn answer(&self, reply: HttpReply) -> Result<HttpResponse, Failure> {
        // The end of an upload in parts may fail after its status was sent.
        let is_late_error = self.attempt.verb == ColdVerb::CompleteUpload
            && reply.body.windows(7).any(|w| w == b"<Error>");
        if reply.status >= 300 {
            return Err(Failure::Refused(Answer::read(reply.status, &reply.body)));
        }
        if is_late_error {
            return Err(Failure::Refused(Answer::read_late(&reply.body)));
        }
        let mut headers = HeaderMap::<String>::with_capacity(reply.headers.len());
        for (name, value) in reply.headers {
            if HeaderValue::from_str(&value).is_ok()
                && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
            {
                headers.append(name, value);
            }
        }
        let status = StatusCode::from_u16(reply.status);
        Ok(HttpResponse {
            status: status.map_err(|e| Failure::Nonsense(e.to_string()))?,
            headers,
            body: rusoto_core::ByteStream::new(futures_lite::stream::once(Ok(reply.body))),
        })
    }
}

fn method(name: &str) -> &'static str {
    match name {
        "PUT" => "PUT",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "DELETE" => "DELETE",
        _ => "GET",
    }
}

fn target(request: &SignedRequest) -> String {
    match request.canonical_query_string() {
        "" => request.canonical_uri().to_owned(),
        query => format!("{}?{query}", request.canonical_uri()),
    }
}

fn headers(request: &SignedRequest) -> Vec<(String, String)> {
    let values = request.headers().iter();
    values
        .flat_map(|(name, values)| {
            let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
            values.iter().map(move |value| (name.clone(), text(value)))
        })
        .collect()
}

async fn pieces(payload: Option<SignedRequestPayload>) -> Result<Vec<Bytes>, Failure> {
    match payload {
        None => Ok(Vec::new()),
        Some(SignedRequestPayload::Buffer(bytes)) => Ok(vec![bytes]),
        Some(SignedRequestPayload::Stream(mut stream)) => {
            let mut pieces = Vec::new();
            while let Some(piece) = stream.next().await {
                pieces.push(piece.map_err(|e| Failure::Nonsense(e.to_string()))?);
            }
            Ok(pieces)
        }
    }
}

fn status_word(status: u16) -> &'static str {
    match status {
        200 => "200",
        204 => "204",
        206 => "206",
        400 => "400",
        403 => "403",
        404 => "404",
        409 => "409",
        412 => "412",
        416 => "416",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        other => match other / 100 {
            0..3 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        },
    }
}
