//! Request paths: which stream, bucket or page is meant.
//!
//! Two address forms: `/v1/stream/{path}` with any depth, and `/{bucket}/{stream}` where the stream id is one
//! percent-encoded segment. Both are percent-decoded exactly once.

use crate::protocol::{BucketName, KeyError, Offset, StreamKey};

/// What a path addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A stream in the root namespace or in a bucket.
    Stream(StreamKey),
    /// A stream's floor.
    Retention(StreamKey, Offset),
    /// A bucket.
    Bucket(BucketName),
    /// The list of a bucket's streams.
    List(BucketName),
    /// Whether the process and its cores live.
    Health,
    /// Whether requests can be served.
    Ready,
    /// Prometheus.
    Metrics,
    /// Nothing is there.
    Nowhere,
}

/// Why a path addresses nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// A `%` without two hex digits.
    BadPercent,
    /// The decoded bytes are not UTF-8.
    NotUtf8,
    /// Not a stream key or bucket name.
    Key(KeyError),
}

const ROOT: &str = "/v1/stream/";

/// Reads the path of a request target, without its query.
///
/// # Errors
/// [`PathError`].
pub fn route(path: &str) -> Result<Route, PathError> {
    if let Some((stream, offset)) = path.rsplit_once("/retention/")
        && let Ok(offset) = Offset::parse(offset)
        && let Route::Stream(key) = route_of(stream)?
    {
        return Ok(Route::Retention(key, offset));
    }
    route_of(path)
}

/// Whether a path is that of a floor but for its offset, which none was read from: a stream made there would be a mistake that
/// nobody sees.
pub fn is_floor_without_offset(path: &str) -> bool {
    path.rsplit_once('/')
        .and_then(|(stream, _)| stream.strip_suffix("/retention"))
        .is_some_and(|stream| matches!(route_of(stream), Ok(Route::Stream(_))))
}

fn route_of(path: &str) -> Result<Route, PathError> {
    if let Some(rest) = path.strip_prefix(ROOT) {
        return stream_in_root(rest).map(Route::Stream);
    }
    match path {
        "/healthz" => return Ok(Route::Health),
        "/readyz" => return Ok(Route::Ready),
        "/metrics" => return Ok(Route::Metrics),
        "/" | "" | "/v1" | "/v1/" | "/v1/stream" | "/favicon.ico" | "/robots.txt" => {
            return Ok(Route::Nowhere);
        }
        _ => {}
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Ok(Route::Nowhere);
    };
    let Some((bucket, id)) = rest.split_once('/') else {
        return bucket_name(rest).map(Route::Bucket);
    };
    if bucket == "v1" || id.contains('/') {
        return Ok(Route::Nowhere);
    }
    let bucket = bucket_name(bucket)?;
    if id == "streams" {
        return Ok(Route::List(bucket));
    }
    let id = decode(id)?;
    StreamKey::in_bucket(&bucket, &id)
        .map(Route::Stream)
        .map_err(PathError::Key)
}

/// Reads `Stream-Forked-From`: the path of a stream on this server, in either form.
///
/// # Errors
/// [`PathError`] if it is not the path of a stream.
pub fn stream_path(path: &str) -> Result<StreamKey, PathError> {
    match route_of(path)? {
        Route::Stream(key) => Ok(key),
        _ => Err(PathError::Key(KeyError::Empty)),
    }
}

fn stream_in_root(rest: &str) -> Result<StreamKey, PathError> {
    let path = decode(rest)?;
    StreamKey::root(&path).map_err(PathError::Key)
}

fn bucket_name(segment: &str) -> Result<BucketName, PathError> {
    let name = decode(segment)?;
    BucketName::parse(&name).map_err(PathError::Key)
}

/// The path that addresses a stream, percent-encoded.
pub fn path_of(key: &StreamKey) -> String {
    let in_bucket = !key.bucket().is_empty();
    let mut path = if in_bucket {
        format!("/{}/", key.bucket())
    } else {
        ROOT.to_owned()
    };
    for byte in key.id().bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        if plain || (byte == b'/' && !in_bucket) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// Percent-decodes once.
///
/// # Errors
/// [`PathError::BadPercent`] or [`PathError::NotUtf8`].
pub fn decode(text: &str) -> Result<std::borrow::Cow<'_, str>, PathError> {
    if !text.contains('%') {
        return Ok(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digit = |i: usize| tail.get(i).and_then(|b| char::from(*b).to_digit(16));
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(PathError::BadPercent);
            };
            bytes.push((high * 16 + low) as u8);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes)
        .map(Into::into)
        .map_err(|_| PathError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> String {
        match route(path) {
            Ok(Route::Stream(key)) => key.as_str().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn both_forms_address_streams() {
        assert_eq!(key("/v1/stream/a/b%20c"), "/a/b c");
        assert_eq!(key("/v1/stream/a%2Fb"), "/a/b");
        assert_eq!(key("/demo/a%2Fb"), "demo/a/b");
        assert_eq!(key("/v1/stream/%2525"), "/%25");
        assert_eq!(
            route("/demo"),
            Ok(Route::Bucket(BucketName::from_stored("demo")))
        );
        assert_eq!(
            route("/demo/streams"),
            Ok(Route::List(BucketName::from_stored("demo")))
        );
        assert_eq!(route("/demo/a/b"), Ok(Route::Nowhere));
        let floor = "0000000000000000_0000000000000007";
        for (stream, key) in [("/demo/a%2Fb", "demo/a/b"), ("/v1/stream/a/b", "/a/b")] {
            let key = StreamKey::from_stored(key);
            assert_eq!(
                route(&format!("{stream}/retention/{floor}")),
                Ok(Route::Retention(key, Offset(7)))
            );
        }
        assert_eq!(key("/v1/stream/a/retention/7"), "/a/retention/7");
        for path in [
            "/v1/stream/a/retention/7",
            "/demo/a/retention/-1",
            "/demo/a/retention/",
        ] {
            assert!(is_floor_without_offset(path), "{path}");
        }
        for path in [
            "/v1/stream/retention/7",
            "/v1/stream/a/retention",
            "/v1/stream/a/retention/7/b",
        ] {
            assert!(!is_floor_without_offset(path), "{path}");
        }
        assert_eq!(route("/"), Ok(Route::Nowhere));
        assert_eq!(route("/favicon.ico"), Ok(Route::Nowhere));
    }

    #[test]
    fn tricks_are_refused() {
        for (path, error) in [
            ("/v1/stream/%", PathError::BadPercent),
            ("/v1/stream/%zz", PathError::BadPercent),
            ("/v1/stream/%ff", PathError::NotUtf8),
            (
                "/v1/stream/%2e%2e/etc",
                PathError::Key(KeyError::BadSegment),
            ),
            ("/v1/stream/a//b", PathError::Key(KeyError::BadSegment)),
            ("/v1/stream/%00", PathError::Key(KeyError::Control)),
            ("/v1/stream/", PathError::Key(KeyError::Empty)),
            ("/v1/stream/__ds/x", PathError::Key(KeyError::Reserved)),
            ("/admin", PathError::Key(KeyError::BucketReserved)),
            ("/abc/x", PathError::Key(KeyError::BucketName)),
            ("/demo/%73treams", PathError::Key(KeyError::ListReserved)),
        ] {
            assert_eq!(route(path), Err(error), "{path}");
        }
    }

    #[test]
    fn a_key_finds_back_to_its_path() {
        for path in ["/v1/stream/a/b%20c", "/demo/a%2Fb", "/v1/stream/%25"] {
            let key = stream_path(path).unwrap();
            assert_eq!(path_of(&key), path);
        }
    }
}
