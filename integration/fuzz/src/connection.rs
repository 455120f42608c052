//! All that a client sends on one connection: hyper reads it as the server lets it, in HTTP/1.1 or HTTP/2, and each request is served
//! from a stub of a core. The first byte of the input is how long the pieces are in which the rest arrives; 0: whole.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper::{Request, Version};
use ursula::core::listen::{ConnectionLimits, bounded};

use crate::stub::Stub;
use crate::{head, http};

/// Turns after which a connection must have come to its end: each takes a piece, or ends something.
const TURNS_MAX: usize = 100_000;

/// Turns in which nothing is seen, after which nothing more comes.
const IDLE_MAX: usize = 20;

/// Every request has an answer that is none of a mistake of ours, and what is sent for HTTP/1.1 begins as answers do.
pub fn connection(data: &[u8]) {
    let Some((piece, rest)) = data.split_first() else {
        return;
    };
    let stub = Rc::new(Stub::new());
    let limits = ConnectionLimits {
        connections_max: 1,
        header_timeout_ms: 1,
        idle_timeout_ms: 1,
        header_bytes_max: 32 << 10,
        h2_streams_max: 64,
        shutdown_timeout_ms: 1,
        retry_after_s: 1,
    };
    let tasks = Tasks::default();
    let mut builder = bounded(tasks.clone(), &limits);
    builder.http1().header_read_timeout(None);
    let wire = Wire {
        input: Bytes::copy_from_slice(rest),
        left: Rc::new(Cell::new(rest.len())),
        piece: match piece {
            0 => usize::MAX,
            piece => usize::from(*piece),
        },
        has_left: Rc::default(),
        output: Rc::default(),
    };
    let (output, has_left, left) = (
        wire.output.clone(),
        wire.has_left.clone(),
        wire.left.clone(),
    );
    let progress = {
        let (output, stub, tasks) = (output.clone(), stub.clone(), tasks.clone());
        move || {
            (
                left.get(),
                output.borrow().len(),
                stub.answers(),
                tasks.count(),
            )
        }
    };
    let is_h2 = Rc::new(Cell::new(false));
    let (served, seen) = (stub.clone(), is_h2.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        seen.set(seen.get() || request.version() == Version::HTTP_2);
        let (parts, body) = request.into_parts();
        head::checked(&parts);
        http::read_headers(&parts.headers);
        http::a_path(parts.uri.path());
        let request = Request::from_parts(parts, body);
        let answer = ursula::http::serve(served.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builder.serve_connection(wire, service);
    let mut connection = std::pin::pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    let mut idle = 0;
    for turn in 0.. {
        assert!(turn < TURNS_MAX, "it goes on for ever");
        let before = progress();
        let has_ended = connection.as_mut().poll(&mut context).is_ready();
        tasks.poll(&mut context);
        if has_ended {
            break;
        }
        idle = if before == progress() { idle + 1 } else { 0 };
        // It has taken all by then, and a live reader waits for what never comes.
        if idle > IDLE_MAX {
            if has_left.replace(true) {
                break;
            }
            idle = 0;
        }
    }
    let output = output.borrow();
    if !output.is_empty() && stub.answers() > 0 && !is_h2.get() {
        assert!(output.starts_with(b"HTTP/1."), "{output:?}");
    }
}

/// What a client sent, in pieces, and what it gets.
struct Wire {
    input: Bytes,
    left: Rc<Cell<usize>>,
    piece: usize,
    /// The client closes its side.
    has_left: Rc<Cell<bool>>,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.input.is_empty() && !self.has_left.get() {
            return Poll::Pending;
        }
        let count = self.piece.min(self.input.len()).min(buffer.remaining());
        buffer.put_slice(&self.input.split_to(count));
        self.left.set(self.input.len());
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.output.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// hyper's own tasks: a request of HTTP/2 has one.
#[derive(Clone, Default)]
struct Tasks {
    running: Rc<RefCell<Vec<Task>>>,
    begun: Rc<RefCell<Vec<Task>>>,
}

impl<F> Executor<F> for Tasks
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let task = Box::pin(async move {
            future.await;
        });
        self.begun.borrow_mut().push(task);
    }
}

impl Tasks {
    fn count(&self) -> usize {
        self.running.borrow().len() + self.begun.borrow().len()
    }

    fn poll(&self, context: &mut Context<'_>) {
        let mut running = self.running.borrow_mut();
        running.append(&mut self.begun.borrow_mut());
        running.retain_mut(|task| task.as_mut().poll(context).is_pending());
    }
}
