//! Nodes that talk over real sockets within one executor.

mod calls;
mod hostile;
mod link;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{FutureExt, StreamExt, stream};
use glommio::LocalExecutorBuilder;
use raftproto::peer::{
    AdminReply, AdminRequest, Batch, CheckpointPart, FetchBytesReply, FetchBytesRequest,
    FetchCheckpointRequest, Hello, JudgeChunkReply, JudgeChunkRequest, StatusReply, StatusRequest,
};

use super::{Caller, CheckpointParts, Code, GrpcError, Link, PeerEvents, PeerSettings, Transport};
use crate::core::hyper_rt::LocalExec;
use crate::core::listen::listener;
use crate::core::signal::Event;
use crate::core::timeouts::Timeouts;

thread_local! {
    static LOGGED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what each thread logs, and so each test by itself.
struct Collector;

impl log::Log for Collector {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("ursula")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LOGGED.with_borrow_mut(|logged| logged.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

fn logged(word: &str) -> Vec<String> {
    let has = |line: &&String| line.contains(word);
    LOGGED.with_borrow(|logged| logged.iter().filter(has).cloned().collect())
}

/// Runs a test on an executor of its own. A panic of any task fails it.
fn on_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    let _ = log::set_logger(&Collector);
    log::set_max_level(log::LevelFilter::Debug);
    LocalExecutorBuilder::default()
        .io_memory(64 << 10)
        // With a shorter one glommio now and then parks for good beside ready tasks.
        .preempt_timer(crate::core::net::PREEMPT_TIMER)
        .spawn(async || {
            let late = async {
                glommio::timer::sleep(Duration::from_secs(100)).await;
                panic!("the test hangs");
            };
            test().or(late).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

/// A node without groups: it notes what it is told.
struct Node {
    hello: RefCell<Hello>,
    batches: RefCell<Vec<(u64, Batch)>>,
    links: RefCell<Vec<Option<u64>>>,
    incoming: RefCell<Vec<(u64, bool)>>,
    refuses: RefCell<Option<String>>,
    random: Cell<u64>,
}

impl Node {
    fn new(node_id: u64, cluster_id: &str) -> Rc<Node> {
        let hello = Hello {
            version: 1,
            cluster_id: cluster_id.into(),
            node_id,
            group_count: 16,
            cluster_address: format!("address-{node_id}"),
            commands_version: 1,
            takes_parts: true,
            ..Hello::default()
        };
        Rc::new(Node {
            hello: RefCell::new(hello),
            batches: RefCell::default(),
            links: RefCell::default(),
            incoming: RefCell::default(),
            refuses: RefCell::default(),
            random: Cell::new(7),
        })
    }
}

impl PeerEvents for Node {
    fn hello(&self) -> Hello {
        self.hello.borrow().clone()
    }

    fn random(&self) -> u64 {
        self.random.set(self.random.get().wrapping_mul(31) + 1);
        self.random.get()
    }

    async fn admit(&self, _hello: &Hello) -> Result<(), String> {
        self.refuses.borrow().clone().map_or(Ok(()), Err)
    }

    fn on_batch(&self, from_node: u64, batch: Batch) {
        self.batches.borrow_mut().push((from_node, batch));
    }

    fn on_link(&self, _node: u64, hello: Option<&Hello>) {
        self.links.borrow_mut().push(hello.map(|h| h.node_id));
    }

    fn on_connections(&self, _open: u64) {}

    fn on_incoming(&self, hello: &Hello, is_open: bool) {
        self.incoming.borrow_mut().push((hello.node_id, is_open));
    }

    async fn status(&self, request: StatusRequest) -> StatusReply {
        StatusReply {
            node: Some(self.hello()),
            groups_led: if request.with_groups { 5 } else { 4 },
            ..StatusReply::default()
        }
    }

    async fn administer(&self, request: AdminRequest) -> Result<AdminReply, GrpcError> {
        let from = request.from.map_or(0, |from| from.node_id);
        assert!(from != 99, "a handler that panics");
        Err(GrpcError::new(
            Code::NotFound,
            format!("no node {from}: ä%"),
        ))
    }

    async fn bytes(&self, request: FetchBytesRequest) -> Result<FetchBytesReply, GrpcError> {
        let data = request.key.into_bytes()[request.start as usize..request.end as usize].to_vec();
        Ok(FetchBytesReply {
            data: data.into(),
            crc32c: 0,
        })
    }

    async fn judge_chunk(&self, request: JudgeChunkRequest) -> JudgeChunkReply {
        JudgeChunkReply {
            is_lost: request.position == 7,
            is_unneeded: false,
        }
    }

    async fn checkpoint(
        &self,
        request: FetchCheckpointRequest,
    ) -> Result<CheckpointParts, GrpcError> {
        let count = request.index;
        let parts = stream::iter(0..count).map(move |i| match request.group {
            0 if i == 2 => Err(GrpcError::new(Code::NotFound, "the file went")),
            _ => Ok(CheckpointPart {
                position: i,
                data: vec![i as u8; 1 << 20].into(),
                ..CheckpointPart::default()
            }),
        });
        Ok(Box::pin(parts))
    }
}

/// A node with its transport and, if it listens, its address.
struct Peer {
    node: Rc<Node>,
    transport: Transport<Node>,
    address: SocketAddr,
}

fn settings() -> PeerSettings {
    PeerSettings {
        call_timeout: Duration::from_secs(5),
        ..PeerSettings::default()
    }
}

/// For what waits for silence.
fn quick() -> PeerSettings {
    PeerSettings {
        silence: Duration::from_millis(600),
        ..settings()
    }
}

fn peer(node_id: u64, cluster_id: &str, settings: PeerSettings) -> Peer {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    peer_at(any, Node::new(node_id, cluster_id), settings)
}

fn peer_at(address: SocketAddr, node: Rc<Node>, settings: PeerSettings) -> Peer {
    let timeouts = Rc::new(Timeouts::default());
    hyper::rt::Executor::execute(&LocalExec, timeouts.clone().run());
    let transport = Transport {
        settings: Rc::new(settings),
        timeouts,
        beats: Rc::default(),
        stop: Rc::new(Event::default()),
        events: node.clone(),
    };
    let listener = listener(address).unwrap();
    let address = listener.local_addr().unwrap();
    hyper::rt::Executor::execute(&LocalExec, super::serve(listener, transport.clone()));
    Peer {
        node,
        transport,
        address,
    }
}

impl Peer {
    fn link_to(&self, other: &Peer) -> Link {
        let node = other.node.hello().node_id;
        Link::start(&self.transport, node, &other.address.to_string())
    }

    fn caller(&self) -> Caller {
        Caller::new(
            self.transport.settings.clone(),
            self.transport.timeouts.clone(),
        )
    }
}

/// Waits until it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..4000 {
        if is_so() {
            return;
        }
        glommio::timer::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came that {what}");
}
