//! What waits to be sent over a link, and the body that sends it.
//! Assumes that HTTP/2 asks for the next frame only when it can take it: the batch is made at that moment, of all that
//! has gathered.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use prost::Message;
use raftproto::peer::{
    Batch, Envelope, ForwardedReply, HibernateGroup, RaftMessage, envelope::Kind,
};

use super::PeerSettings;
use super::message::Encoder;
use super::question::Question;
use crate::core::signal::Event;

/// Tag and length of an item in its batch, at most.
const ITEM_BYTES: u64 = 6;
/// How long an item that can wait does, at most.
const CAN_WAIT: Duration = Duration::from_millis(1);
/// What an envelope adds to its items, at most.
const ENVELOPE_BYTES: u64 = 64;

/// One thing to say to a node; see [`Batch`].
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are Raft's, and go from one queue into one list"
)]
pub enum BatchItem {
    /// Of a group's Raft.
    Raft(RaftMessage),
    /// For the leader there.
    Request(Question),
    /// To who asked there.
    Reply(ForwardedReply),
    /// A group sleeps.
    Hibernate(HibernateGroup),
}

impl BatchItem {
    fn bytes(&self) -> u64 {
        let length = match self {
            BatchItem::Raft(message) => message.encoded_len(),
            BatchItem::Request(question) => question.bytes(),
            BatchItem::Reply(reply) => reply.encoded_len(),
            BatchItem::Hibernate(group) => group.encoded_len(),
        };
        length as u64 + ITEM_BYTES
    }
}

/// Counters of one link, for metrics.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// Of batches, as sent: after compression.
    pub bytes_sent: Cell<u64>,
    /// Also the empty ones.
    pub batches_sent: Cell<u64>,
    /// Items in them.
    pub items_sent: Cell<u64>,
    /// How often the link came up after it had been up before.
    pub reconnects: Cell<u64>,
    /// What waits now.
    pub queued_bytes: Cell<u64>,
    /// Posts that were refused because too much waits.
    pub refused_full: Cell<u64>,
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

/// The queue of one connection.
pub(super) struct Outbox {
    waiting: RefCell<VecDeque<(u64, BatchItem)>>,
    /// Of the frame that is being sent.
    pieces: RefCell<VecDeque<Bytes>>,
    /// The own introduction, framed; goes first.
    hello: Cell<Option<Bytes>>,
    /// The other side has introduced itself: batches may go.
    is_open: Cell<bool>,
    is_alive_due: Cell<bool>,
    /// What can wait does, and raises this: see [`Outbox::take_along`].
    is_waiting: Cell<bool>,
    waits: Event,
    waker: Cell<Option<Waker>>,
    encoder: RefCell<Encoder>,
    stats: Rc<LinkStats>,
    has_no_room: Rc<Cell<bool>>,
    queue_bytes_max: u64,
    batch_bytes_max: u64,
    item_bytes_max: u64,
}

impl Outbox {
    pub(super) fn new(
        hello: Bytes,
        settings: &PeerSettings,
        (stats, has_no_room): (Rc<LinkStats>, Rc<Cell<bool>>),
    ) -> Outbox {
        stats.queued_bytes.set(0);
        Outbox {
            waiting: RefCell::default(),
            pieces: RefCell::default(),
            hello: Cell::new(Some(hello)),
            is_open: Cell::new(false),
            is_alive_due: Cell::new(false),
            is_waiting: Cell::new(false),
            waits: Event::default(),
            waker: Cell::new(None),
            encoder: RefCell::new(Encoder::new(None)),
            stats,
            has_no_room,
            queue_bytes_max: settings.queue_bytes_max,
            batch_bytes_max: settings.batch_bytes_max as u64,
            item_bytes_max: (settings.message_bytes_max as u64).saturating_sub(ENVELOPE_BYTES),
        }
    }

    /// From now on batches go.
    pub(super) fn open(&self, encoder: Encoder) {
        *self.encoder.borrow_mut() = encoder;
        self.is_open.set(true);
        self.wake();
    }

    /// Appends; gives the item back if too much waits, or if no message can hold it.
    #[expect(clippy::result_large_err, reason = "the item goes back to who has it")]
    pub(super) fn post(&self, item: BatchItem) -> Result<(), BatchItem> {
        self.append(item)?;
        self.wake();
        Ok(())
    }

    /// The same for what can wait until something else goes, or for [`CAN_WAIT`]: a frame of its own costs both sides a wake.
    #[expect(clippy::result_large_err, reason = "the item goes back to who has it")]
    pub(super) fn take_along(&self, item: BatchItem) -> Result<(), BatchItem> {
        self.append(item)?;
        if !self.is_waiting.replace(true) {
            self.waits.raise();
        }
        Ok(())
    }

    /// Sends what has waited long enough, for ever.
    pub(super) async fn send_what_waits(&self) -> Infallible {
        let mut seen = 0;
        loop {
            seen = self.waits.beyond(seen).await;
            glommio::timer::sleep(CAN_WAIT).await;
            // What began to wait meanwhile has a time of its own.
            if self.is_waiting.get() && self.waits.raised() == seen {
                self.wake();
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the item goes back to who has it")]
    fn append(&self, item: BatchItem) -> Result<(), BatchItem> {
        let bytes = item.bytes();
        if bytes > self.item_bytes_max {
            log::error!(
                "event=peer_item_too_long bytes={bytes} bytes_max={} not sent",
                self.item_bytes_max
            );
            return Err(item);
        }
        // One item always finds room, however long.
        if self.stats.queued_bytes.get() >= self.queue_bytes_max {
            add(&self.stats.refused_full, 1);
            return Err(item);
        }
        add(&self.stats.queued_bytes, bytes);
        self.waiting.borrow_mut().push_back((bytes, item));
        Ok(())
    }

    /// Says that this side lives, unless a batch is about to say it.
    pub(super) fn say_alive(&self) {
        self.is_alive_due.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next piece of a frame.
    fn next_piece(&self) -> Option<Bytes> {
        if let Some(hello) = self.hello.take() {
            return Some(hello);
        }
        let mut pieces = self.pieces.borrow_mut();
        if pieces.is_empty() && self.is_open.get() {
            *pieces = self.next_frame()?.into();
            add(&self.stats.batches_sent, 1);
            let bytes = raftproto::pieces::length(pieces.make_contiguous());
            add(&self.stats.bytes_sent, bytes as u64);
        }
        pieces.pop_front()
    }

    fn next_frame(&self) -> Option<Vec<Bytes>> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() && !self.is_alive_due.get() {
            return None;
        }
        self.is_alive_due.set(false);
        self.is_waiting.set(false);
        let mut batch = Batch {
            alive: waiting.is_empty(),
            has_no_room: self.has_no_room.get(),
            ..Batch::default()
        };
        let is_long = |item: &BatchItem| matches!(item, BatchItem::Request(q) if q.is_long());
        let (mut count, mut bytes, mut long) = (0, 0, None);
        while let Some((length, item)) = waiting.front()
            && (count == 0 || (bytes + length <= self.batch_bytes_max && !is_long(item)))
            && long.is_none()
            && let Some((length, item)) = waiting.pop_front()
        {
            count += 1;
            bytes += length;
            match item {
                BatchItem::Raft(message) => batch.raft.push(message),
                BatchItem::Request(question) if question.is_long() => long = Some(question),
                BatchItem::Request(question) => batch.requests.push(question.into_message()),
                BatchItem::Reply(reply) => batch.replies.push(reply),
                BatchItem::Hibernate(group) => batch.hibernate.push(group),
            }
        }
        add(&self.stats.items_sent, count);
        let queued = self.stats.queued_bytes.get();
        self.stats.queued_bytes.set(queued - bytes);
        if let Some(question) = long {
            return Some(question.into_frame(&batch));
        }
        let envelope = Envelope {
            kind: Some(Kind::Batch(batch)),
        };
        Some(self.encoder.borrow_mut().encode_pieces(&envelope))
    }
}

/// The body of an `Exchange` call: the introduction, then batches for ever.
pub(super) struct OutboxBody(pub(super) Rc<Outbox>);

impl Body for OutboxBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.next_piece() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => {
                self.0.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}
