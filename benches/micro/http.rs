//! HTTP without a socket: hyper parses a row of appends out of memory, a backend answers at once, the answers are
//! rendered into nothing.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use fuzz::Stub;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

const REQUESTS: usize = 100;

/// What a client sent, and a place for what it gets.
struct Memory {
    input: Bytes,
    written: usize,
}

impl Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.input.is_empty() {
            // A client that waits for its last answer, which ends the connection.
            return Poll::Pending;
        }
        let len = self.input.len().min(buf.remaining());
        buf.put_slice(&self.input.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.written += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// 100 appends of 256 bytes on one connection.
pub fn parse_to_reply(c: &mut Criterion) {
    let request = |connection: &str| {
        let body = "x".repeat(256);
        format!(
            "POST /v1/stream/load/stream-17 HTTP/1.1\r\nhost: 127.0.0.1:4437\r\nconnection: {connection}\r\n\
             content-type: application/octet-stream\r\ncontent-length: 256\r\n\r\n{body}"
        )
    };
    let requests = request("keep-alive").repeat(REQUESTS - 1) + &request("close");
    let input = Bytes::from(requests);
    let backend = Rc::new(Stub::quick());
    let mut group = c.benchmark_group("http_parse_to_reply");
    group.throughput(Throughput::Elements(REQUESTS as u64));
    group.bench_function("100_appends_of_256_bytes", |b| {
        b.iter(|| {
            let backend = backend.clone();
            let service = service_fn(move |request| {
                let answer = ursula::http::serve(backend.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let memory = Memory {
                input: input.clone(),
                written: 0,
            };
            let mut builder = http1::Builder::new();
            builder.header_read_timeout(None);
            let served = futures_lite::future::block_on(
                builder.serve_connection(memory, service).without_shutdown(),
            );
            let parts = served.expect("nothing is malformed");
            assert!(parts.io.written > 100 * REQUESTS);
        });
    });
    group.finish();
}
