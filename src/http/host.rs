//! Which server the client means: `Host`, `:authority`, or the authority of an absolute target (RFC 9112, section 3.2).

use hyper::Version;
use hyper::header::HOST;
use hyper::http::request::Parts;

use super::parse;
use super::path::path_of;
use crate::protocol::{Refusal, StreamKey};

/// The authority that a request names, if it names one. That of the target counts more than `Host`.
///
/// # Errors
/// [`Refusal::Bad`] for HTTP/1.1 without `Host`, for two of them, and for what is no host.
pub fn authority(head: &Parts) -> Result<Option<&str>, Refusal> {
    let host = parse::text(&head.headers, &HOST)?;
    if host.is_none() && head.version == Version::HTTP_11 {
        return Err(Refusal::Bad("HTTP/1.1 needs a Host header".to_owned()));
    }
    let of_target = head.uri.authority().map(|a| a.as_str());
    for given in [host, of_target].into_iter().flatten() {
        // An empty one is valid: the target has no authority then.
        if !given.is_empty() && !is_authority(given) {
            return Err(Refusal::Bad(
                "the host must be a name or address, with :port if need be".to_owned(),
            ));
        }
    }
    Ok(of_target.or(host).filter(|a| !a.is_empty()))
}

/// `Location`: the URL that the client used; a path alone where its authority is not known.
pub fn location(authority: Option<&str>, key: &StreamKey) -> String {
    let path = path_of(key);
    authority.map_or_else(|| path.clone(), |a| format!("http://{a}{path}"))
}

/// `host[:port]` of RFC 3986, section 3.2, without user information.
fn is_authority(text: &str) -> bool {
    let (host_is_good, rest) = match text.strip_prefix('[') {
        Some(literal) => {
            let Some((address, rest)) = literal.split_once(']') else {
                return false;
            };
            let good = |b: u8| b.is_ascii_hexdigit() || b == b':' || b == b'.';
            (!address.is_empty() && address.bytes().all(good), rest)
        }
        None => {
            let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b);
            (!host.is_empty() && host.bytes().all(good), rest)
        }
    };
    let port_is_good = match rest.strip_prefix(':') {
        Some(port) => port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()),
        None => rest.is_empty(),
    };
    host_is_good && port_is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in [
            "x",
            "a.example:4437",
            "127.0.0.1:1",
            "[::1]:80",
            "[::1]",
            "a_b",
            "x:",
        ] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "a b", "a/b", "a?b", "a#b", "u@h", "a:b", "a:1:2", "[::1", "[]", "[x]", "a<b>", ":80",
            "a\"b", "[::1]x",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
