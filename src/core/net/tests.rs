//! Who wakes a core that naps or sleeps, and how soon.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use glommio::LocalExecutorBuilder;

use super::{Bell, Listener, Socket};
use crate::core::clock;
use crate::core::signal::Event;
use crate::core::tasks;

/// So long that nothing but a lost wake takes longer, on a loaded machine too.
const LOST: Duration = Duration::from_secs(20);

fn on_executor<F: Future<Output = ()> + 'static>(run: impl FnOnce() -> F + Send + 'static) {
    LocalExecutorBuilder::default()
        .preempt_timer(super::PREEMPT_TIMER)
        .spawn(move || async move {
            let late = async {
                glommio::timer::sleep(LOST).await;
                panic!("something was not woken");
            };
            run().or(late).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

/// Two ends of a connection to itself.
async fn pair() -> (Socket, Socket) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = Listener::new(listener).unwrap();
    let connected = Socket::connect(listener.local_addr().unwrap()).await;
    (connected.unwrap(), listener.accept().await.unwrap())
}

/// A connection to a thread that sends back each byte, some time later.
async fn echoed() -> Socket {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            stream.write_all(&byte).unwrap();
        }
    });
    Socket::connect(address).await.unwrap()
}

#[test]
fn each_ring_of_another_thread_is_heard_awake_napping_or_asleep() {
    const RINGS: u64 = 600;
    let bell = Arc::new(Bell::new().unwrap());
    let (rung, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ringer = {
        let (bell, rung, heard) = (bell.clone(), rung.clone(), heard.clone());
        std::thread::spawn(move || {
            for ring in 1..=RINGS {
                rung.store(ring, Ordering::SeqCst);
                bell.ring();
                while heard.load(Ordering::SeqCst) < ring {
                    std::thread::yield_now();
                }
                // From "it has not yet fallen asleep" to "it sleeps in glommio".
                std::thread::sleep(Duration::from_micros(ring * 7919 % 2500));
            }
        })
    };
    on_executor(move || async move {
        let event: Rc<Event> = Rc::default();
        let raised = event.clone();
        bell.hang(move || raised.raise()).unwrap();
        let mut seen = 0;
        loop {
            let now = rung.load(Ordering::SeqCst);
            heard.store(now, Ordering::SeqCst);
            if now == RINGS {
                return;
            }
            seen = event.beyond(seen).await;
        }
    });
    ringer.join().unwrap();
}

#[test]
fn a_bell_that_hangs_where_the_poller_sleeps_is_heard() {
    let bell = Arc::new(Bell::new().unwrap());
    let ringer = bell.clone();
    let (hung, hangs) = std::sync::mpsc::channel();
    let ringing = std::thread::spawn(move || {
        hangs.recv().unwrap();
        ringer.ring();
    });
    on_executor(move || async move {
        // Its poller has nothing to do from here on, and sleeps.
        let _sockets = pair().await;
        glommio::timer::sleep(Duration::from_millis(300)).await;
        let event: Rc<Event> = Rc::default();
        let raised = event.clone();
        bell.hang(move || raised.raise()).unwrap();
        hung.send(()).unwrap();
        event.beyond(0).await;
    });
    ringing.join().unwrap();
}

#[test]
fn no_task_that_is_ready_waits_for_a_nap() {
    on_executor(|| async {
        let mut socket = echoed().await;
        let (there, back): (Rc<Event>, Rc<Event>) = Default::default();
        let (asked, answered) = (there.clone(), back.clone());
        tasks::spawn(async move {
            let mut seen = 0;
            loop {
                seen = asked.beyond(seen).await;
                answered.raise();
            }
        })
        .detach();
        let done: Rc<Cell<bool>> = Rc::default();
        let is_done = done.clone();
        let began = clock::instant();
        let hops = tasks::spawn(async move {
            let mut seen = 0;
            for _ in 0..20_000 {
                there.raise();
                seen = back.beyond(seen).await;
            }
            is_done.set(true);
        });
        // The poller has something now and then, or else it would not nap.
        while !done.get() {
            socket.write_all(b"x").await.unwrap();
            socket.read_exact(&mut [0]).await.unwrap();
        }
        hops.await;
        let took = clock::instant() - began;
        assert!(took < Duration::from_secs(5), "{took:?} for 20,000 hops");
    });
}

#[test]
fn timers_go_off_beside_a_socket_that_is_always_ready() {
    on_executor(|| async {
        let (mut near, mut far) = pair().await;
        let done: Rc<Cell<bool>> = Rc::default();
        let is_done = done.clone();
        let timers = tasks::spawn(async move {
            for _ in 0..100 {
                glommio::timer::sleep(Duration::from_millis(2)).await;
            }
            is_done.set(true);
        });
        let began = clock::instant();
        while !done.get() {
            near.write_all(b"x").await.unwrap();
            far.read_exact(&mut [0]).await.unwrap();
            futures_lite::future::yield_now().await;
        }
        timers.await;
        let took = clock::instant() - began;
        assert!(took < Duration::from_secs(5), "{took:?} for 100 timers");
    });
}

#[test]
fn what_a_blocking_thread_did_is_heard_beside_naps() {
    on_executor(|| async {
        let (mut near, mut far) = pair().await;
        for round in 0..300 {
            near.write_all(b"x").await.unwrap();
            far.read_exact(&mut [0]).await.unwrap();
            let doubled = storage::blocking::run(move || 2 * round).await;
            assert_eq!(doubled, 2 * round);
        }
    });
}

/// While the poller sleeps it looks at no line: who was woken by something else must not stand in one.
#[test]
fn what_a_blocking_thread_made_is_sent_to_its_end_by_a_core_that_slept() {
    const BYTES: usize = 200 << 10;
    on_executor(|| async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        let mut near = Socket::connect(address).await.unwrap();
        for _ in 0..20 {
            let made = storage::blocking::run(|| {
                std::thread::sleep(Duration::from_millis(20));
                vec![7; BYTES]
            });
            near.write_all(&made.await).await.unwrap();
        }
        near.close().await.unwrap();
        let read = storage::blocking::run(move || reader.join().unwrap());
        assert_eq!(read.await, 20 * BYTES);
    });
}
