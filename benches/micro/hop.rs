//! A message to another core and back.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures_lite::future::poll_fn;
use glommio::{LocalExecutorBuilder, Placement};
use std::task::{Poll, Waker};
use ursula::core::{MeshEnds, mesh};

/// Sends `trips` messages to the other core with `window` of them under way; the time of all.
fn ping(ends: MeshEnds<u64>, trips: u64, window: u64) -> Duration {
    let executor = LocalExecutorBuilder::new(Placement::Unbound);
    let run = executor.spawn(move || async move {
        let back = Rc::new(Cell::new(0u64));
        let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
        let (counted, woken) = (back.clone(), waker.clone());
        let mesh = ends.connect(Rc::new(move |_, _| {
            counted.set(counted.get() + 1);
            if let Some(waker) = woken.borrow_mut().take() {
                waker.wake();
            }
        }));
        let mesh = mesh.expect("an epoll is to be had");
        let began = Instant::now();
        let mut sent = 0;
        while back.get() < trips {
            while sent < trips && sent - back.get() < window {
                sent += 1;
                assert!(mesh.post(1, sent).is_ok(), "the window is small");
            }
            let seen = back.get();
            poll_fn(|cx| {
                if back.get() > seen {
                    return Poll::Ready(());
                }
                *waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
        let took = began.elapsed();
        assert!(
            mesh.post(1, u64::MAX).is_ok(),
            "the last one ends the other core"
        );
        glommio::timer::sleep(Duration::from_millis(20)).await;
        took
    });
    let joined = run.expect("an executor starts").join();
    joined.expect("it ends")
}

fn pong(ends: MeshEnds<u64>) -> glommio::ExecutorJoinHandle<()> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound);
    let run = executor.spawn(move || async move {
        let over = Rc::new(Cell::new(false));
        let mesh: Rc<RefCell<Option<_>>> = Rc::default();
        let (answer, ended) = (mesh.clone(), over.clone());
        let connected = ends.connect(Rc::new(move |from, number| {
            if number == u64::MAX {
                ended.set(true);
                return;
            }
            if let Some(mesh) = &*answer.borrow() {
                let mesh: &ursula::core::Mesh<u64> = mesh;
                assert!(mesh.post(from, number).is_ok(), "the window is small");
            }
        }));
        *mesh.borrow_mut() = Some(connected.expect("an epoll is to be had"));
        while !over.get() {
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
    });
    run.expect("an executor starts")
}

/// Round trips with one and with 64 messages under way.
pub fn between_cores(c: &mut Criterion) {
    let mut group = c.benchmark_group("cross_core_hop");
    group.throughput(Throughput::Elements(1));
    for window in [1, 64] {
        group.bench_function(format!("round_trip_{window}_under_way"), |b| {
            b.iter_custom(|trips| {
                let ends = mesh::<u64>(2).expect("descriptors are to be had");
                let mut ends = ends.into_iter();
                let (Some(first), Some(second)) = (ends.next(), ends.next()) else {
                    unreachable!("two cores were asked for");
                };
                let other = pong(second);
                let took = ping(first, trips, window);
                other.join().expect("it ends");
                took
            });
        });
    }
    group.finish();
}
