//! Keys of objects: words with slashes between them, such as `packs/00003/17`.
//! Only bytes that mean the same to every S3 server, every signature and every file system.

use std::fmt;

/// Longest key in bytes. With a prefix before it, it stays below S3's 1024.
pub const KEY_BYTES_MAX: usize = 512;

/// Longest word: what a file may be called.
const WORD_BYTES_MAX: usize = 200;

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColdKey(String);

impl ColdKey {
    /// Words of letters, digits, `-`, `_`, `.` and `=` with a slash between; none begins with a point. `None` for
    /// anything else.
    pub fn new(text: impl Into<String>) -> Option<ColdKey> {
        let text = text.into();
        let is_word = |word: &str| {
            (1..=WORD_BYTES_MAX).contains(&word.len())
                && !word.starts_with('.')
                && word.bytes().all(is_plain)
        };
        (text.len() <= KEY_BYTES_MAX && text.split('/').all(is_word)).then_some(ColdKey(text))
    }

    /// As a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What may stand in a word.
pub(crate) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte)
}

impl fmt::Display for ColdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_words_and_leads_nowhere_else() {
        for good in ["a", "a/b", "packs/00003/17.2", "a=b/-/_"] {
            assert_eq!(
                ColdKey::new(good).map(|k| k.to_string()).as_deref(),
                Some(good)
            );
        }
        let long = "a".repeat(201);
        for bad in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", ".tmp/a", "a b", "ä", "a\0", "a%", &long,
        ] {
            assert!(ColdKey::new(bad).is_none(), "{bad:?}");
        }
        assert!(ColdKey::new("aa/".repeat(171)).is_none());
    }
}
