//! Where the cold store is, as settings say it.

use std::path::PathBuf;

/// Where the cold store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColdPlace {
    /// A directory of this node.
    Dir(PathBuf),
    /// A bucket, and what stands before each key; empty, or without a slash at its end.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
}

impl ColdPlace {
    /// What all nodes of a cluster must agree on: the bucket and its prefix, as settings say them. A directory is each node's own.
    pub fn shared_name(&self) -> String {
        match self {
            ColdPlace::Dir(_) => "local".to_owned(),
            ColdPlace::S3 { bucket, prefix } if prefix.is_empty() => format!("s3://{bucket}"),
            ColdPlace::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
        }
    }
}

/// What nobody is shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "***" })
    }
}

/// A scheme, a host, perhaps a port.
pub(super) fn is_endpoint(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or(text.strip_prefix("https://"));
    text.is_empty() || rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', '?']))
}

/// A directory, or `s3://bucket/prefix`; nothing where the text is empty.
pub(super) fn cold(text: &str) -> Option<Option<ColdPlace>> {
    match text.trim() {
        "" => Some(None),
        text if text.starts_with("s3://") => {
            let (bucket, prefix) = text[5..].split_once('/').unwrap_or((&text[5..], ""));
            let prefix = prefix.trim_end_matches('/').to_owned();
            let is_plain =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            let is_bucket = (3..=63).contains(&bucket.len()) && bucket.bytes().all(is_plain);
            let is_prefix = prefix.len() <= 256
                && (prefix.is_empty() || storage::cold::ColdKey::new(prefix.as_str()).is_some());
            let bucket = bucket.to_owned();
            (is_bucket && is_prefix).then_some(Some(ColdPlace::S3 { bucket, prefix }))
        }
        text if text.contains("://") => None,
        text => Some(Some(ColdPlace::Dir(PathBuf::from(text)))),
    }
}
