//! Asks all cores, by message and with a deadline.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ahash::AHashMap;

use super::PATIENCE;
use crate::core::clock::instant;
use crate::core::owners::Owners;
use crate::core::signal::{Slot, slot};
use crate::core::{CoreReport, Mesh, MeshEnds, Message};
use crate::protocol::{Outcome, Request};

type Asked<T> = Rc<RefCell<AHashMap<u64, Slot<T>>>>;

/// See the module's head.
pub struct Gatherer {
    mesh: Mesh<Message>,
    owners: Owners,
    next_id: Cell<u64>,
    probed: Asked<CoreReport>,
    asked: Asked<Outcome>,
}

impl Gatherer {
    /// Connects to the cores.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(ends: MeshEnds<Message>, owners: Owners) -> std::io::Result<Gatherer> {
        let probed: Asked<CoreReport> = Rc::default();
        let asked: Asked<Outcome> = Rc::default();
        let (reports, outcomes) = (probed.clone(), asked.clone());
        let mesh = ends.connect(Rc::new(move |_, message| match message {
            Message::Probed { id, report } => {
                let slot = reports.borrow_mut().remove(&id);
                if let Some(slot) = slot {
                    slot.fill(*report);
                }
            }
            Message::Reply { id, outcome } => {
                let slot = outcomes.borrow_mut().remove(&id);
                if let Some(slot) = slot {
                    slot.fill(outcome);
                }
            }
            // Cores say the rest only to each other.
            _ => {}
        }))?;
        Ok(Gatherer {
            mesh,
            owners,
            next_id: Cell::new(1),
            probed,
            asked,
        })
    }

    fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// How all cores are; `None` for those that do not answer in time.
    pub async fn reports(&self) -> Vec<Option<CoreReport>> {
        let mut waits = Vec::new();
        for core in 0..self.owners.cores() {
            let id = self.next_id();
            let (slot, filled) = slot();
            let message = Message::Probe {
                id,
                with_hashes: false,
            };
            self.probed.borrow_mut().insert(id, slot);
            if self.mesh.post(core, message).is_err() {
                self.probed.borrow_mut().remove(&id);
            }
            waits.push((id, filled));
        }
        let deadline = instant() + PATIENCE;
        let mut reports = Vec::new();
        for (id, filled) in waits {
            reports.push(until(deadline, filled).await.flatten());
            self.probed.borrow_mut().remove(&id);
        }
        reports
    }

    /// Asks the group on `core`; `None` without an answer in time.
    pub async fn ask(&self, core: u16, request: Request) -> Option<Outcome> {
        let id = self.next_id();
        let (slot, filled) = slot();
        self.asked.borrow_mut().insert(id, slot);
        let message = Message::Request { id, request };
        let outcome = match self.mesh.post(core, message) {
            Ok(()) => until(instant() + PATIENCE * 5, filled).await.flatten(),
            Err(_) => None,
        };
        self.asked.borrow_mut().remove(&id);
        outcome
    }

    /// Which core has which group.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }
}

async fn until<T>(deadline: std::time::Instant, future: impl Future<Output = T>) -> Option<T> {
    let left = deadline.saturating_duration_since(instant());
    let timeout = async {
        glommio::timer::sleep(left.max(Duration::from_millis(1))).await;
        None
    };
    futures_lite::FutureExt::or(async { Some(future.await) }, timeout).await
}
