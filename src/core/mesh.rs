//! Channels between the cores: a full mesh, bounded, without locks.
//!
//! A wake of another core is dear, so what is posted to a core in one turn travels as one message, and its bell
//! (`net/bell.rs`) is rung only where the core sleeps.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use super::net::Bell;
use super::signal::Event;
use super::tasks;

/// Messages that may wait for one core before posts are refused.
const OUTBOX_MAX: usize = 64 << 10;

/// Batches that one core may have under way to another.
const BATCHES_MAX: usize = 1024;

/// Until it is tried again whether another core that has so many batches took some.
const FULL: Duration = Duration::from_millis(1);

/// To one core, and what it is woken by.
type Sender<M> = (SyncSender<Vec<M>>, Arc<Bell>);

/// One core's ends of the channels, before its executor runs.
pub struct MeshEnds<M: Send> {
    senders: Vec<Option<Sender<M>>>,
    receivers: Vec<Option<Receiver<Vec<M>>>>,
    bell: Arc<Bell>,
}

/// Makes the channels between `cores` cores.
///
/// # Errors
/// The system's: no more descriptors.
pub fn mesh<M: Send>(cores: usize) -> std::io::Result<Vec<MeshEnds<M>>> {
    let empty = || -> std::io::Result<MeshEnds<M>> {
        Ok(MeshEnds {
            senders: (0..cores).map(|_| None).collect(),
            receivers: (0..cores).map(|_| None).collect(),
            bell: Arc::new(Bell::new()?),
        })
    };
    let mut ends: Vec<MeshEnds<M>> = (0..cores).map(|_| empty()).collect::<Result<_, _>>()?;
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let (sender, receiver) = sync_channel(BATCHES_MAX);
            ends[from].senders[to] = Some((sender, ends[to].bell.clone()));
            ends[to].receivers[from] = Some(receiver);
        }
    }
    Ok(ends)
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
    ///
    /// # Errors
    /// The system's: this executor's poller could not be started.
    pub fn connect(self, on_message: Rc<dyn Fn(u16, M)>) -> std::io::Result<Mesh<M>> {
        let outboxes = self.senders.into_iter().map(|sender| {
            let outbox = Rc::new(Outbox {
                messages: RefCell::default(),
                posted: Event::default(),
            });
            if let Some((sender, bell)) = sender {
                tasks::spawn(send_all(sender, bell, outbox.clone())).detach();
            }
            outbox
        });
        let outboxes = outboxes.collect();
        let rung: Rc<Event> = Rc::default();
        let raised = rung.clone();
        self.bell.hang(move || raised.raise())?;
        tasks::spawn(receive_all(self.receivers, rung, on_message)).detach();
        Ok(Mesh { outboxes })
    }
}

async fn send_all<M: Send + 'static>(
    sender: SyncSender<Vec<M>>,
    bell: Arc<Bell>,
    outbox: Rc<Outbox<M>>,
) {
    let mut seen = 0;
    loop {
        seen = outbox.posted.beyond(seen).await;
        let mut batch: Vec<M> = outbox.messages.borrow_mut().drain(..).collect();
        while !batch.is_empty() {
            match sender.try_send(batch) {
                Ok(()) => {
                    bell.ring();
                    break;
                }
                Err(TrySendError::Full(back)) => batch = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            glommio::timer::sleep(FULL).await;
        }
    }
}

async fn receive_all<M: Send + 'static>(
    receivers: Vec<Option<Receiver<Vec<M>>>>,
    rung: Rc<Event>,
    on_message: Rc<dyn Fn(u16, M)>,
) {
    let mut receivers = receivers;
    loop {
        // Looked at before the channels are: what is sent while they are read rings again.
        let seen = rung.raised();
        for (from, place) in receivers.iter_mut().enumerate() {
            while let Some(receiver) = place {
                match receiver.try_recv() {
                    Ok(batch) => {
                        for message in batch {
                            on_message(from as u16, message);
                            glommio::yield_if_needed().await;
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => *place = None,
                }
            }
        }
        rung.beyond(seen).await;
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
