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
use raftproto::pieces::Pieces;

use super::PeerSettings;
use super::message::{COMPRESS_BYTES_MAX, Encoder, header};
use super::parts::{EntriesId, Sliced, is_long};
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
pub enum BatchItem {
    /// Of a group's Raft.
    Raft(RaftMessage),
    /// The same of what may overtake: it means the same whatever comes before it.
    Pulse(RaftMessage),
    /// For the leader there.
    Request(Question),
    /// To who asked there.
    Reply(ForwardedReply),
    /// A group sleeps.
    Hibernate(HibernateGroup),
}

impl BatchItem {
    pub(super) fn bytes(&self) -> u64 {
        let length = match self {
            BatchItem::Raft(message) | BatchItem::Pulse(message) => message.encoded_len(),
            BatchItem::Request(question) => question.bytes(),
            BatchItem::Reply(reply) => reply.encoded_len(),
            BatchItem::Hibernate(group) => group.encoded_len(),
        };
        length as u64 + ITEM_BYTES
    }

    pub(super) fn group(&self) -> u32 {
        match self {
            BatchItem::Raft(message) | BatchItem::Pulse(message) => message.group,
            BatchItem::Request(request) => request.group,
            BatchItem::Reply(reply) => reply.group,
            BatchItem::Hibernate(notice) => notice.group,
        }
    }

    pub(super) fn may_overtake(&self) -> bool {
        matches!(self, BatchItem::Pulse(_))
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
    /// The long message that is being sent.
    sliced: RefCell<Option<Sliced>>,
    takes_parts: Cell<bool>,
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
            sliced: RefCell::default(),
            takes_parts: Cell::new(false),
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

    /// From now on batches go, to one that takes long ones in slices or not.
    pub(super) fn open(&self, encoder: Encoder, takes_parts: bool) {
        *self.encoder.borrow_mut() = encoder;
        self.takes_parts.set(takes_parts);
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
        if is_long(bytes) && self.has_already(&item) {
            return Ok(());
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

    /// Heartbeats overtake long entries, and their answers make raft-rs send those to a follower that it probes again.
    fn has_already(&self, item: &BatchItem) -> bool {
        let Some(entries) = EntriesId::of(item) else {
            return false;
        };
        let waiting = self.waiting.borrow();
        let mut waiting = waiting.iter().filter_map(|(_, item)| EntriesId::of(item));
        let sliced = self.sliced.borrow();
        sliced.as_ref().is_some_and(|s| s.is(entries)) || waiting.any(|e| e == entries)
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
        let mut sliced = self.sliced.borrow_mut();
        if let Some(long) = &mut *sliced {
            if std::mem::take(&mut long.is_others_turn) {
                let mut waiting = self.waiting.borrow_mut();
                let mut ahead = long.overtaking(&mut waiting, self.batch_bytes_max);
                drop(waiting);
                if !ahead.is_empty() || self.is_alive_due.get() {
                    let (batch, _) = self.next_batch(&mut ahead);
                    assert!(ahead.is_empty(), "it is what a batch holds");
                    return Some(self.whole(batch));
                }
            }
            if let Some(frame) = long.next_frame() {
                return Some(frame);
            }
            *sliced = None;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() && !self.is_alive_due.get() {
            return None;
        }
        let entries = waiting.front().and_then(|(_, item)| EntriesId::of(item));
        let first = waiting.front().map(|(_, item)| item.group());
        let (batch, question) = self.next_batch(&mut waiting);
        drop(waiting);
        // More than one only where batches are longer than what is sent whole.
        let groups = groups_of(&batch).chain(first).collect();
        let (pieces, entries) = match question {
            Some(question) => (question.into_envelope(&batch), None),
            None if batch.encoded_len() <= COMPRESS_BYTES_MAX => return Some(self.whole(batch)),
            None => {
                let kind = Some(Kind::Batch(batch));
                (Pieces::of(&Envelope { kind }).finish(), entries)
            }
        };
        if !self.takes_parts.get() {
            let mut frame = vec![header(raftproto::pieces::length(&pieces))];
            frame.extend(pieces);
            return Some(frame);
        }
        sliced
            .insert(Sliced::new(pieces, entries, groups))
            .next_frame()
    }

    fn whole(&self, batch: Batch) -> Vec<Bytes> {
        let envelope = Envelope {
            kind: Some(Kind::Batch(batch)),
        };
        vec![self.encoder.borrow_mut().encode(&envelope)]
    }

    /// The next items as a batch, or a long request that goes with an empty one.
    fn next_batch(&self, waiting: &mut VecDeque<(u64, BatchItem)>) -> (Batch, Option<Question>) {
        self.is_alive_due.set(false);
        self.is_waiting.set(false);
        let mut batch = Batch {
            alive: waiting.is_empty(),
            has_no_room: self.has_no_room.get(),
            ..Batch::default()
        };
        let (mut count, mut bytes, mut question) = (0, 0, None);
        while let Some((length, _)) = waiting.front()
            // A long one goes by itself.
            && (count == 0 || (bytes + length <= self.batch_bytes_max && !is_long(*length)))
            && let Some((length, item)) = waiting.pop_front()
        {
            count += 1;
            bytes += length;
            let is_long = is_long(length);
            match item {
                BatchItem::Raft(message) | BatchItem::Pulse(message) => batch.raft.push(message),
                BatchItem::Request(long) if is_long => question = Some(long),
                BatchItem::Request(short) => batch.requests.push(short.into_message()),
                BatchItem::Reply(reply) => batch.replies.push(reply),
                BatchItem::Hibernate(group) => batch.hibernate.push(group),
            }
            if is_long {
                break;
            }
        }
        add(&self.stats.items_sent, count);
        let queued = self.stats.queued_bytes.get();
        self.stats.queued_bytes.set(queued - bytes);
        (batch, question)
    }
}

fn groups_of(batch: &Batch) -> impl Iterator<Item = u32> {
    let raft = batch.raft.iter().map(|m| m.group);
    let requests = batch.requests.iter().map(|r| r.group);
    let replies = batch.replies.iter().map(|r| r.group);
    let hibernate = batch.hibernate.iter().map(|h| h.group);
    raft.chain(requests).chain(replies).chain(hibernate)
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
