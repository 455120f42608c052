//! Content types and what a stream's type means for its reads (protocol, section 9).

use std::fmt;
use std::sync::Arc;

/// A MIME type with its parameters, as the stream's creator wrote it.
#[derive(Debug, Clone)]
pub struct ContentType(Arc<str>);

/// Longest content type in bytes.
const BYTES_MAX: usize = 256;

impl ContentType {
    /// What a stream gets that was created without a type (section 5.1).
    pub fn default_type() -> ContentType {
        ContentType("application/octet-stream".into())
    }

    /// Checks the value of a `Content-Type` header; `None` if it is not of the form `type/subtype[;parameters]`.
    pub fn parse(value: &str) -> Option<ContentType> {
        let value = value.trim();
        let essence = essence(value);
        let (kind, subtype) = essence.split_once('/')?;
        let is_token = |t: &str| {
            !t.is_empty()
                && t.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        let visible = value.bytes().all(|b| (0x20..0x7f).contains(&b));
        (value.len() <= BYTES_MAX && visible && is_token(kind) && is_token(subtype))
            .then(|| ContentType(value.into()))
    }

    /// A type as it was persisted.
    pub fn from_stored(text: &str) -> ContentType {
        ContentType(text.into())
    }

    /// The whole value.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both name the same type; case and parameters do not count.
    pub fn matches(&self, other: &ContentType) -> bool {
        essence(&self.0).eq_ignore_ascii_case(essence(&other.0))
    }

    /// Whether the stream has message boundaries (section 9.1).
    pub fn is_json(&self) -> bool {
        essence(&self.0).eq_ignore_ascii_case("application/json")
    }

    /// Whether SSE carries the bytes as text; all else is base64 (section 5.8).
    pub fn is_text(&self) -> bool {
        self.is_json()
            || essence(&self.0)
                .get(..5)
                .is_some_and(|t| t.eq_ignore_ascii_case("text/"))
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or(value).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_parameters_do_not_count() {
        let a = ContentType::parse("application/json; charset=utf-8").unwrap();
        let b = ContentType::parse("Application/JSON").unwrap();
        assert!(a.matches(&b) && a.is_json() && a.is_text());
        assert!(!a.matches(&ContentType::default_type()));
        assert!(ContentType::parse("TEXT/plain").unwrap().is_text());
        for bad in ["", "json", "a/", "/b", "a b/c", "text/plain\u{7f}"] {
            assert!(ContentType::parse(bad).is_none(), "{bad}");
        }
    }
}
