//! Channels between the cores: a full mesh, bounded, without locks.
//!
//! A wake of another core is dear (some 30 µs of CPU), so what is posted to a core in one turn travels as one
//! message.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use glommio::channels::shared_channel::{self, SharedReceiver, SharedSender};

use super::signal::Event;

/// Messages that may wait for one core before posts are refused.
const OUTBOX_MAX: usize = 64 << 10;

/// One core's ends of the channels, before its executor runs.
pub struct MeshEnds<M: Send> {
    senders: Vec<Option<SharedSender<Vec<M>>>>,
    receivers: Vec<Option<SharedReceiver<Vec<M>>>>,
}

/// Makes the channels between `cores` cores.
pub fn mesh<M: Send>(cores: usize) -> Vec<MeshEnds<M>> {
    let empty = || MeshEnds {
        senders: (0..cores).map(|_| None).collect(),
        receivers: (0..cores).map(|_| None).collect(),
    };
    let mut ends: Vec<MeshEnds<M>> = (0..cores).map(|_| empty()).collect();
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let (sender, receiver) = shared_channel::new_bounded(1024);
            ends[from].senders[to] = Some(sender);
            ends[to].receivers[from] = Some(receiver);
        }
    }
    ends
}

/// Posts to the other cores.
pub struct Mesh<M> {
    outboxes: Vec<Rc<Outbox<M>>>,
}

struct Outbox<M> {
    messages: RefCell<VecDeque<M>>,
    posted: Event,
}

impl<M: Send + 'static> MeshEnds<M> {
    /// Connects; `on_message` is called for each message with the core that sent it.
    pub fn connect(self, on_message: Rc<dyn Fn(u16, M)>) -> Mesh<M> {
        let outboxes = self.senders.into_iter().map(|sender| {
            let outbox = Rc::new(Outbox {
                messages: RefCell::default(),
                posted: Event::default(),
            });
            if let Some(sender) = sender {
                glommio::spawn_local(send_all(sender, outbox.clone())).detach();
            }
            outbox
        });
        let outboxes = outboxes.collect();
        for (from, receiver) in self.receivers.into_iter().enumerate() {
            if let Some(receiver) = receiver {
                glommio::spawn_local(receive_all(from as u16, receiver, on_message.clone()))
                    .detach();
            }
        }
        Mesh { outboxes }
    }
}

async fn send_all<M: Send + 'static>(sender: SharedSender<Vec<M>>, outbox: Rc<Outbox<M>>) {
    let sender = sender.connect().await;
    let mut seen = 0;
    loop {
        seen = outbox.posted.beyond(seen).await;
        let batch: Vec<M> = outbox.messages.borrow_mut().drain(..).collect();
        if !batch.is_empty() && sender.send(batch).await.is_err() {
            return;
        }
    }
}

async fn receive_all<M: Send + 'static>(
    from: u16,
    receiver: SharedReceiver<Vec<M>>,
    on_message: Rc<dyn Fn(u16, M)>,
) {
    let receiver = receiver.connect().await;
    while let Some(batch) = receiver.recv().await {
        for message in batch {
            on_message(from, message);
            glommio::yield_if_needed().await;
        }
    }
}

impl<M> Mesh<M> {
    /// Posts a message to another core; it leaves at the end of this turn.
    ///
    /// # Errors
    /// Gives the message back when too many wait for that core.
    pub fn post(&self, to: u16, message: M) -> Result<(), M> {
        let outbox = &self.outboxes[usize::from(to)];
        if outbox.messages.borrow().len() >= OUTBOX_MAX {
            return Err(message);
        }
        self.deliver(to, message);
        Ok(())
    }

    /// How full the fullest outbox is, from 0 to 1 and, with what must arrive, above.
    pub fn fullest(&self) -> f64 {
        let longest = self
            .outboxes
            .iter()
            .map(|o| o.messages.borrow().len())
            .max();
        longest.unwrap_or(0) as f64 / OUTBOX_MAX as f64
    }

    /// Posts what must arrive: an answer, of which there are no more than requests that were taken, or tables, which
    /// are rare.
    pub fn deliver(&self, to: u16, message: M) {
        let outbox = &self.outboxes[usize::from(to)];
        outbox.messages.borrow_mut().push_back(message);
        outbox.posted.raise();
    }
}
