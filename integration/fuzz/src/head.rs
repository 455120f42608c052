//! What of a request's head says which server is meant and what a new stream keeps: a target and `Host` lines, and retention's headers.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Version};
use ursula::http::{authority, location, parse};
use ursula::protocol::StreamKey;

/// The first line is a target, the others are header lines.
pub fn head(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines.take(16) {
        let colon = line.iter().position(|b| *b == b':');
        let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
            continue;
        };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let request = Request::builder().uri(target).version(version).body(());
        let Ok(request) = request else {
            return;
        };
        let (mut parts, ()) = request.into_parts();
        parts.headers = headers.clone();
        checked(&parts);
    }
}

/// What every head has to keep.
pub fn checked(parts: &Parts) {
    if let Ok(Some(kept)) = parse::retention(&parts.headers) {
        let again = parse::retention(&parts.headers).expect("it was read a moment ago");
        assert_eq!(again, Some(kept));
    }
    if let Ok(named) = authority(parts) {
        let url = location(named, &StreamKey::from_stored("/a"));
        assert!(HeaderValue::from_str(&url).is_ok(), "{url:?}");
        assert!(!url.contains('@') && !url.contains(' '), "{url:?}");
    }
}
