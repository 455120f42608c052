//! The link to one peer: one connection with one `Exchange` call, kept for ever.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt;
use hyper::body::Incoming;
use hyper::rt::Executor;
use raftproto::peer::{Envelope, Hello, envelope::Kind};

use super::calls::{broken, read_reply};
use super::connection::{connect, within};
use super::grpc::{Code, GrpcError, accepts_zstd, request};
use super::handshake::{judge, warn_of_clocks};
use super::life::{say, unanswered};
use super::message::{Encoder, Messages};
use super::outbox::{BatchItem, LinkStats, Outbox, OutboxBody};
use super::{PeerEvents, Transport};
use crate::core::hyper_rt::LocalExec;
use crate::core::signal::Event;

/// One core's way to one peer. Ends when it is dropped.
pub struct Link {
    shared: Rc<Shared>,
}

struct Shared {
    node: u64,
    address: String,
    /// While the link is up.
    outbox: RefCell<Option<Rc<Outbox>>>,
    stats: Rc<LinkStats>,
    /// What each batch says of this node's disk.
    has_no_room: Rc<Cell<bool>>,
    /// Why the last attempt or connection ended.
    trouble: RefCell<String>,
    /// The peer was heard of: it is worth an attempt at once.
    hurried: Event,
    dropped: Event,
}

impl Link {
    /// Connects to `node` at `address`, and again whenever that breaks, until the link is dropped or the transport stops.
    pub fn start<E: PeerEvents>(transport: &Transport<E>, node: u64, address: &str) -> Link {
        let shared = Rc::new(Shared {
            node,
            address: address.to_owned(),
            outbox: RefCell::new(None),
            stats: Rc::default(),
            has_no_room: Rc::default(),
            trouble: RefCell::default(),
            hurried: Event::default(),
            dropped: Event::default(),
        });
        LocalExec.execute(keep(transport.clone(), shared.clone()));
        Link { shared }
    }

    /// Where the peer is.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Whether the peer takes batches.
    pub fn is_up(&self) -> bool {
        self.shared.outbox.borrow().is_some()
    }

    /// The peer was heard of, so it is there: where the link is down, the next attempt is made at once.
    pub fn hurry(&self) {
        if !self.is_up() {
            self.shared.hurried.raise();
        }
    }

    /// Tells the peer whether this node's disk has room: at once where that is news, and with each batch.
    pub fn say_room(&self, has_room: bool) {
        if self.shared.has_no_room.replace(!has_room) == has_room
            && let Some(outbox) = &*self.shared.outbox.borrow()
        {
            outbox.say_alive();
        }
    }

    /// Appends to the next batch.
    ///
    /// # Errors
    /// Gives the item back when the link is down, when too much waits, or when the item is longer than a message may be.
    #[expect(clippy::result_large_err, reason = "the item goes back to who has it")]
    pub fn post(&self, item: BatchItem) -> Result<(), BatchItem> {
        match &*self.shared.outbox.borrow() {
            Some(outbox) => outbox.post(item),
            None => Err(item),
        }
    }

    /// The same for what need not go at once: it goes with what follows, or a millisecond later.
    ///
    /// # Errors
    /// As [`Link::post`].
    #[expect(clippy::result_large_err, reason = "the item goes back to who has it")]
    pub fn take_along(&self, item: BatchItem) -> Result<(), BatchItem> {
        match &*self.shared.outbox.borrow() {
            Some(outbox) => outbox.take_along(item),
            None => Err(item),
        }
    }

    /// What waits to be sent; not what HTTP/2 has taken, which is one batch at most.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.stats.queued_bytes.get()
    }

    /// Why the link is down, as far as is known; empty while it is up.
    pub fn trouble(&self) -> String {
        if self.is_up() {
            return String::new();
        }
        self.shared.trouble.borrow().clone()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &LinkStats {
        &self.shared.stats
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.dropped.raise();
    }
}

impl Shared {
    /// Whether it was up.
    fn take_down(&self) -> bool {
        let outbox = self.outbox.borrow_mut().take();
        self.stats.queued_bytes.set(0);
        outbox.is_some()
    }
}

async fn keep<E: PeerEvents>(transport: Transport<E>, shared: Rc<Shared>) {
    let stopped = async {
        transport.stop.beyond(0).or(shared.dropped.beyond(0)).await;
    };
    reconnect(&transport, &shared).or(stopped).await;
    if shared.take_down() {
        transport.events.on_link(shared.node, None);
    }
}

async fn reconnect<E: PeerEvents>(transport: &Transport<E>, shared: &Rc<Shared>) {
    let settings = &transport.settings;
    let (node, address) = (shared.node, &shared.address);
    let mut backoff = settings.backoff_min;
    let mut has_been_up = false;
    loop {
        let heard = shared.hurried.raised();
        let Err(error) = attempt(transport, shared, has_been_up).await;
        let was_up = shared.take_down();
        if was_up {
            has_been_up = true;
            backoff = settings.backoff_min;
            transport.events.on_link(node, None);
        }
        // A refusal is repeated with each attempt; it is told once.
        let trouble = error.to_string();
        if was_up || trouble != *shared.trouble.borrow() {
            log::warn!(
                "event=peer_link_down node={node} address={address} was_up={was_up} reason={trouble:?}"
            );
            shared.trouble.replace(trouble);
        }
        let half = backoff / 2;
        let jitter = transport.events.random() % (half.as_micros().max(1) as u64);
        let pause = async {
            glommio::timer::sleep(half + Duration::from_micros(jitter)).await;
            false
        };
        let hurried = async {
            shared.hurried.beyond(heard).await;
            true
        };
        backoff = if hurried.or(pause).await {
            settings.backoff_min
        } else {
            (backoff * 2).min(settings.backoff_max)
        };
    }
}

async fn attempt<E: PeerEvents>(
    transport: &Transport<E>,
    shared: &Rc<Shared>,
    has_been_up: bool,
) -> Result<Infallible, GrpcError> {
    let settings = &transport.settings;
    let hello = Envelope {
        kind: Some(Kind::Hello(transport.events.hello())),
    };
    let hello = Encoder::new(None).encode(&hello);
    let told = (shared.stats.clone(), shared.has_no_room.clone());
    let outbox = Rc::new(Outbox::new(hello, settings, told));
    let unanswered = unanswered(settings.silence);
    let (mut sender, _connected) =
        connect(&shared.address, settings, &transport.timeouts, unanswered).await?;
    let request = request(
        &shared.address,
        "Exchange",
        true,
        OutboxBody(outbox.clone()),
    )?;
    let introduced = async {
        let reply = sender.send_request(request).await.map_err(broken)?;
        let reads_zstd = accepts_zstd(reply.headers());
        let mut replies = read_reply(reply, settings.message_bytes_max)?;
        let hello = introduction(&mut replies).await?;
        Ok((hello, replies, reads_zstd))
    };
    let (hello, replies, reads_zstd) =
        within(settings.connect_timeout, "the introduction", introduced).await?;
    let own = transport.events.hello();
    let refused = |text| GrpcError::new(Code::FailedPrecondition, text);
    if own.node_id == hello.node_id {
        // It says of itself what its settings say; this is where it was met.
        let met = Hello {
            cluster_address: shared.address.clone(),
            ..hello.clone()
        };
        judge(&own, &met, None).map_err(refused)?;
    }
    judge(&own, &hello, Some(shared.node)).map_err(refused)?;
    transport.events.admit(&hello).await.map_err(refused)?;
    warn_of_clocks(&own, &hello);
    if has_been_up {
        let reconnects = &shared.stats.reconnects;
        reconnects.set(reconnects.get() + 1);
    }
    log::info!(
        "event=peer_link_up node={} address={}",
        shared.node,
        shared.address
    );
    let encoder = Encoder::new(reads_zstd.then_some(settings.compress_from_bytes));
    outbox.open(encoder, hello.takes_parts);
    *shared.outbox.borrow_mut() = Some(outbox.clone());
    transport.events.on_link(shared.node, Some(&hello));
    let broken = until_it_ends(replies);
    let late = async { match outbox.send_what_waits().await {} };
    let alive = async { match say(&outbox, &shared.stats, &transport.beats).await {} };
    Err(broken.or(alive).or(late).await)
}

async fn introduction(replies: &mut Messages<Incoming>) -> Result<Hello, GrpcError> {
    match replies.next::<Envelope>().await? {
        Some(Envelope {
            kind: Some(Kind::Hello(hello)),
        }) => Ok(hello),
        _ => Err(GrpcError::new(
            Code::Internal,
            "the answer does not begin with an introduction",
        )),
    }
}

/// The other side says only that it lives; what comes from a later version is left out.
async fn until_it_ends(mut replies: Messages<Incoming>) -> GrpcError {
    loop {
        match replies.next::<Envelope>().await {
            Ok(Some(_)) => glommio::yield_if_needed().await,
            Ok(None) => return GrpcError::new(Code::Unavailable, "the peer ended the call"),
            Err(error) => return error,
        }
    }
}
