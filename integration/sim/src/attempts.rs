//! What producers ask once and what they ask again: whoever refuses the only attempt says that nothing was done, while a refused
//! one of many may have been overtaken by another. No attempt is done twice, be it in two lives of a stream.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::history::{Op, What};

/// The bodies that were asked again, and how often.
#[derive(Debug, Default)]
pub struct Attempts(BTreeMap<Vec<u8>, usize>);

impl Attempts {
    /// A client asks.
    pub fn note(&mut self, op: &Op) {
        if let Some((body, false)) = attempt(op) {
            *self.0.entry(body.to_vec()).or_default() += 1;
        }
    }

    /// How often a producer's append was asked until now.
    pub fn count(&self, body: &[u8]) -> usize {
        1 + self.0.get(body).copied().unwrap_or(0)
    }

    /// The body of a producer's append that was asked only this once.
    pub fn only<'a>(&self, op: &'a Op) -> Option<&'a Bytes> {
        match attempt(op) {
            Some((body, true)) if !self.0.contains_key(&**body) => Some(body),
            _ => None,
        }
    }
}

/// The body of a producer's append, and whether this is its first attempt: a body begins with the number of that.
fn attempt(op: &Op) -> Option<(&Bytes, bool)> {
    let What::Append {
        producer: Some(_),
        body,
        ..
    } = &op.what
    else {
        return None;
    };
    Some((body, body.starts_with(format!("[{:06}:", op.id).as_bytes())))
}
