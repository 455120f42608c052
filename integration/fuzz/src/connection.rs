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
use hyper::{Method, Request, Version};
use ursula::core::listen::{ConnectionLimits, bounded};

use crate::answers::{plain_requests, read, read_h2, resets};
use crate::stub::Stub;
use crate::{head, http};

/// Turns after which a connection must have come to its end: each takes a piece, or ends something.
const TURNS_MAX: usize = 100_000;

/// Turns in which nothing is seen, after which nothing more comes.
const IDLE_MAX: usize = 20;

/// Every request that hyper takes has one answer, whole, which is none of a mistake of ours, but for one that waits; and hyper
/// takes each one about which there is no question.
pub fn connection(data: &[u8]) {
    let Some((piece, rest)) = data.split_first() else {
        return;
    };
    let stub = Rc::new(Stub::default());
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
    let taken = Rc::new(Taken::default());
    let (served, seen) = (stub.clone(), taken.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        seen.is_h2
            .set(seen.is_h2.get() || request.version() == Version::HTTP_2);
        seen.are_heads
            .borrow_mut()
            .push(request.method() == Method::HEAD);
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
            taken.check(&output.borrow(), rest, stub.answers(), has_left.get(), true);
            break;
        }
        idle = if before == progress() { idle + 1 } else { 0 };
        // It has taken all by then, and a live reader waits for what never comes.
        if idle > IDLE_MAX {
            taken.check(
                &output.borrow(),
                rest,
                stub.answers(),
                has_left.get(),
                false,
            );
            if has_left.replace(true) {
                break;
            }
            idle = 0;
        }
    }
}

/// The requests that hyper took, in order.
#[derive(Default)]
struct Taken {
    is_h2: Cell<bool>,
    are_heads: RefCell<Vec<bool>>,
}

impl Taken {
    /// Compares what was sent with what came and what was `answered`, when nothing more comes: the connection `has_ended`, or all
    /// of it waits. To a client that `has_left`, not all is said.
    fn check(&self, output: &[u8], input: &[u8], answered: u64, has_left: bool, has_ended: bool) {
        let (are_heads, answered) = (self.are_heads.borrow(), answered as usize);
        assert!(answered <= are_heads.len(), "answered more than was asked");
        if self.is_h2.get() {
            let streams = read_h2(output);
            if !has_left && !has_ended {
                let most = streams.answered + streams.unanswered + resets(input);
                assert!(answered <= most, "{answered} answers, {streams:?}");
            }
            return;
        }
        if are_heads.is_empty() && !output.starts_with(b"HTTP/1.") {
            // What hyper says by itself to a client of HTTP/2.
            return;
        }
        let sent = read(output, &are_heads, has_ended);
        let own = sent.whole.len().min(are_heads.len());
        let begun = own + usize::from(sent.has_events);
        assert!(begun <= answered, "{begun} of {answered} answers: {sent:?}");
        if has_left {
            return;
        }
        assert_eq!(begun, answered, "an answer is kept back: {sent:?}");
        assert!(are_heads.len() - answered <= 1, "only one waits");
        for (number, body) in plain_requests(input).into_iter().enumerate() {
            assert!(number < begun, "no answer to request {number}: {sent:?}");
            let Some(answer) = sent.whole.get(number) else {
                break;
            };
            // The rest of a body that is refused need not be waited for.
            if answer.is_last || body > 0 && answer.status >= 400 {
                break;
            }
        }
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
