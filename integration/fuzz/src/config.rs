//! The configuration file.

use std::collections::BTreeMap;

use crate::edits::{put, scratch};

/// It is refused with a text, or every setting stands within its bounds.
pub fn config(data: &[u8]) {
    let file = scratch();
    let path = put(file.path(), "ursula.toml", data.to_vec());
    let none = BTreeMap::new();
    match ursula::config::load(&none, std::iter::empty(), Some(&path)) {
        Ok((config, origins)) => {
            assert!(!ursula::config::describe(&config, &origins).is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
