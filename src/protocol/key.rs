//! Stream keys, bucket names and the slot that a key falls into.
//!
//! A key is `<bucket>/<id>`. Streams under `/v1/stream/` lie in the root namespace, whose bucket name is
//! empty; no bucket can have that name, so the two address forms never meet.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

/// Number of slots; a constant of the on-disk and on-wire formats.
pub const SLOT_COUNT: u16 = 16_384;

/// Longest stream id in bytes, after percent-decoding.
const ID_BYTES_MAX: usize = 1024;

/// The unit of placement: `xxh3_64(key) % SLOT_COUNT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// Why a path or name is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The stream id is empty.
    Empty,
    /// The stream id is longer than 1 KiB.
    TooLong,
    /// A control character, which no header and no log line could carry.
    Control,
    /// A `.` or `..` segment, or an empty one (`//`).
    BadSegment,
    /// The first segment is `__ds`, which the protocol reserves (section 6.1).
    Reserved,
    /// The id is `streams`, whose path in a bucket is the list.
    ListReserved,
    /// The bucket name does not match `^[a-z0-9_-]{4,64}$`.
    BucketName,
    /// The bucket name is one that the server needs for itself.
    BucketReserved,
}

/// Names a stream on the whole cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(Arc<str>);

impl StreamKey {
    /// A key in the root namespace: the percent-decoded path below `/v1/stream/`.
    ///
    /// # Errors
    /// [`KeyError`] if the path is empty, too long, reserved, or has segments that a proxy would rewrite.
    pub fn root(path: &str) -> Result<StreamKey, KeyError> {
        check_id(path)?;
        if path == "__ds" || path.starts_with("__ds/") {
            return Err(KeyError::Reserved);
        }
        Ok(StreamKey(format!("/{path}").into()))
    }

    /// A key in a bucket. The id is one percent-decoded segment, so that it may hold slashes.
    ///
    /// # Errors
    /// [`KeyError`] as for [`StreamKey::root`].
    pub fn in_bucket(bucket: &BucketName, id: &str) -> Result<StreamKey, KeyError> {
        check_id(id)?;
        if id == "streams" {
            return Err(KeyError::ListReserved);
        }
        Ok(StreamKey(format!("{bucket}/{id}").into()))
    }

    /// A key as it was persisted or received from another core; the text was checked when it was made.
    pub fn from_stored(text: &str) -> StreamKey {
        StreamKey(text.into())
    }

    /// The whole key, `<bucket>/<id>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bucket's name; empty for the root namespace.
    pub fn bucket(&self) -> &str {
        self.0.split_once('/').map_or("", |(bucket, _)| bucket)
    }

    /// The stream's id inside its bucket, or its path below `/v1/stream/`.
    pub fn id(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, id)| id)
    }

    /// Where the key is placed.
    pub fn slot(&self) -> Slot {
        let hash = xxh3_64(self.0.as_bytes());
        Slot((hash % u64::from(SLOT_COUNT)) as u16)
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for StreamKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn check_id(id: &str) -> Result<(), KeyError> {
    if id.is_empty() {
        return Err(KeyError::Empty);
    }
    if id.len() > ID_BYTES_MAX {
        return Err(KeyError::TooLong);
    }
    if id.chars().any(char::is_control) {
        return Err(KeyError::Control);
    }
    if id.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
        return Err(KeyError::BadSegment);
    }
    Ok(())
}

/// A bucket's name: `^[a-z0-9_-]{4,64}$` and not reserved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Arc<str>);

/// First path segments that the server answers itself, now or in a later version.
const RESERVED: [&str; 16] = [
    "healthz", "readyz", "startupz", "livez", "metrics", "admin", "cluster", "console", "debug",
    "static", "streams", "status", "version", "favicon", "robots", "__ds",
];

impl BucketName {
    /// Checks a name from outside.
    ///
    /// # Errors
    /// [`KeyError::BucketName`] or [`KeyError::BucketReserved`].
    pub fn parse(name: &str) -> Result<BucketName, KeyError> {
        let fits = (4..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if RESERVED.contains(&name) {
            return Err(KeyError::BucketReserved);
        }
        if !fits {
            return Err(KeyError::BucketName);
        }
        Ok(BucketName(name.into()))
    }

    /// A name as it was persisted or received from another core.
    pub fn from_stored(name: &str) -> BucketName {
        BucketName(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published vectors, from the reference implementation of XXH3: they must never change, since placement is on
    /// disk.
    #[test]
    fn slots_are_those_of_the_published_vectors() {
        let vectors = [("/a", 10_245), ("demo/x", 4_989), ("/über/µ", 2_891)];
        for (key, slot) in vectors {
            assert_eq!(StreamKey::from_stored(key).slot(), Slot(slot), "{key}");
        }
    }

    #[test]
    fn the_two_address_forms_never_meet() {
        let bucket = BucketName::parse("demo").unwrap();
        let in_bucket = StreamKey::in_bucket(&bucket, "x").unwrap();
        let root = StreamKey::root("demo/x").unwrap();
        assert_ne!(in_bucket, root);
        assert_eq!((in_bucket.bucket(), in_bucket.id()), ("demo", "x"));
        assert_eq!((root.bucket(), root.id()), ("", "demo/x"));
        assert_eq!(
            StreamKey::in_bucket(&bucket, "streams"),
            Err(KeyError::ListReserved)
        );
        assert!(StreamKey::root("streams").is_ok());
    }

    #[test]
    fn paths_that_a_proxy_would_rewrite_are_refused() {
        for (path, error) in [
            ("", KeyError::Empty),
            ("a//b", KeyError::BadSegment),
            ("../a", KeyError::BadSegment),
            ("a/.", KeyError::BadSegment),
            ("a/", KeyError::BadSegment),
            ("a\0", KeyError::Control),
            ("a\nb", KeyError::Control),
            ("__ds", KeyError::Reserved),
            ("__ds/subscriptions/x", KeyError::Reserved),
        ] {
            assert_eq!(StreamKey::root(path).unwrap_err(), error, "{path:?}");
        }
        assert!(StreamKey::root("__dsx").is_ok());
        assert_eq!(
            StreamKey::root(&"a".repeat(1025)).unwrap_err(),
            KeyError::TooLong
        );
    }

    #[test]
    fn bucket_names_follow_the_pattern() {
        for good in ["demo", "a_b-9", &"x".repeat(64)] {
            assert!(BucketName::parse(good).is_ok(), "{good}");
        }
        for bad in ["abc", "Demo", "de.mo", "dem/o", &"x".repeat(65), ""] {
            assert_eq!(
                BucketName::parse(bad).unwrap_err(),
                KeyError::BucketName,
                "{bad}"
            );
        }
        assert_eq!(
            BucketName::parse("healthz").unwrap_err(),
            KeyError::BucketReserved
        );
    }
}
