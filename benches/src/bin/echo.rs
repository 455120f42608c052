//! The floor: hyper on glommio with the server's own accept loop, and a handler that reads the body and does nothing.
//!
//! `echo ADDRESS CORES` answers every PUT with 201, every POST with 204 and the offset header that `ursula-load` looks
//! for, so that the same load can be put on it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use glommio::{LocalExecutorBuilder, Placement};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use ursula::core::listen::{ConnectionEvents, ConnectionLimits, accept_loop, guard, listener};
use ursula::http::ResponseBody;

struct Uncounted;

impl ConnectionEvents for Uncounted {
    fn connections(&self, _open: u64) {}
    fn refused(&self) {}
    fn panicked(&self) {}
}

thread_local! {
    static ANSWERS: Cell<u64> = const { Cell::new(0) };
}

async fn answer(request: Request<Incoming>) -> Response<ResponseBody> {
    let is_create = request.method() == Method::PUT;
    let _ = request.into_body().collect().await;
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = if is_create {
        StatusCode::CREATED
    } else {
        StatusCode::NO_CONTENT
    };
    let number = ANSWERS.get();
    ANSWERS.set(number + 1);
    let offset = HeaderValue::from_str(&format!("0000000000000000_{number:016}"));
    if let Ok(offset) = offset {
        response.headers_mut().insert("stream-next-offset", offset);
    }
    response
}

async fn core(addr: SocketAddr) {
    let limits = ConnectionLimits {
        connections_max: 100_000,
        header_timeout_ms: 30_000,
        idle_timeout_ms: 75_000,
        header_bytes_max: 16 << 10,
        h2_streams_max: 100,
        shutdown_timeout_ms: 1000,
        retry_after_s: 1,
    };
    let socket = match listener(addr) {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("{error}");
            return;
        }
    };
    accept_loop(
        socket,
        limits,
        Rc::default(),
        Rc::default(),
        Rc::new(Uncounted),
        answer,
    )
    .await;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let addr = arguments.next().and_then(|a| a.parse::<SocketAddr>().ok());
    let cores = arguments.next().and_then(|a| a.parse::<usize>().ok());
    let (Some(addr), Some(cores)) = (addr, cores) else {
        eprintln!("usage: echo ADDRESS CORES");
        std::process::exit(2);
    };
    let guard = match guard(addr) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    let addr = guard.addr;
    let cores: Vec<_> = (0..cores)
        .filter_map(|id| {
            LocalExecutorBuilder::new(Placement::Fixed(id))
                .spin_before_park(std::time::Duration::from_micros(
                    std::env::var("SPIN")
                        .ok()
                        .and_then(|s| s.parse().ok())
                        .unwrap_or(0),
                ))
                .preempt_timer(ursula::core::net::PREEMPT_TIMER)
                .spawn(move || core(addr))
                .ok()
        })
        .collect();
    for core in cores {
        if let Err(error) = core.join() {
            eprintln!("{error}");
        }
    }
}
