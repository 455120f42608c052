//! What producers ask once and what they ask again: whoever refuses the only attempt says that nothing was done, while a refused
//! one of many may have been overtaken by another.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::history::{Op, What};

/// The bodies that were asked again.
#[derive(Debug, Default)]
pub struct Attempts(BTreeSet<Vec<u8>>);

impl Attempts {
    /// A client asks.
    pub fn note(&mut self, op: &Op) {
        if let Some((body, false)) = attempt(op) {
            self.0.insert(body.to_vec());
        }
    }

    /// The body of a producer's append that was asked only this once.
    pub fn only<'a>(&self, op: &'a Op) -> Option<&'a Bytes> {
        match attempt(op) {
            Some((body, true)) if !self.0.contains(&**body) => Some(body),
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
