//! Who waits for which stream, and what wakes them.
//! Owns the list of watching cores of one group's streams; the readers themselves live on those cores, which
//! hold one relay each. Assumes that `tell` is called in log order, and for the end of each stream, so that nobody
//! watches a key that is free.

use std::collections::BTreeMap;

use super::Effect;
use crate::protocol::{StreamKey, TailNews};

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Tails {
    watchers: BTreeMap<StreamKey, Vec<u16>>,
}

impl Tails {
    pub(super) fn watch(&mut self, key: &StreamKey, core: u16) {
        let cores = self.watchers.entry(key.clone()).or_default();
        if !cores.contains(&core) {
            cores.push(core);
        }
    }

    pub(super) fn unwatch(&mut self, key: &StreamKey, core: u16) {
        if let Some(cores) = self.watchers.get_mut(key) {
            cores.retain(|c| *c != core);
            if cores.is_empty() {
                self.watchers.remove(key);
            }
        }
    }

    pub(super) fn is_watched(&self, key: &StreamKey) -> bool {
        !self.watchers.is_empty() && self.watchers.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &StreamKey> {
        self.watchers.keys()
    }

    /// Forgets all; answers who watched what.
    pub(super) fn take_all(&mut self) -> Vec<(StreamKey, Vec<u16>)> {
        std::mem::take(&mut self.watchers).into_iter().collect()
    }

    /// Tells all watching cores; after an end they are forgotten.
    pub(super) fn tell(&mut self, news: TailNews, effects: &mut Vec<Effect>) {
        let cores = if news.ended {
            self.watchers.remove(&news.key)
        } else {
            self.watchers.get(&news.key).cloned()
        };
        if let Some(cores) = cores {
            effects.push(Effect::Tail { cores, news });
        }
    }
}
