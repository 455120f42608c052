//! Headers and query parameters become the words of the protocol, or a refusal that says what is wrong.

use std::borrow::Cow;

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};

use super::header;
use super::path::{decode, stream_path};
use crate::protocol::{
    ContentType, Expiry, ForkRequest, MAX_AGE_SECONDS_MAX, Offset, Producer, ReadFrom, Refusal,
    Retention, SEQ_MAX, StreamKey, TTL_SECONDS_MAX, TtlError, parse_rfc3339_ms, parse_ttl,
};

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::Bad(text.into())
}

/// A header's value; refused if it is given twice.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(bad(format!("{name} is given more than once")));
    }
    Ok(value)
}

/// A header's text; refused if it is given twice or is not visible ASCII.
pub(super) fn text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = once(headers, name)? else {
        return Ok(None);
    };
    let value = value
        .to_str()
        .map_err(|_| bad(format!("{name} must be visible ASCII")))?;
    Ok(Some(value.trim()))
}

/// `Content-Type`.
pub fn content_type(headers: &HeaderMap) -> Result<Option<ContentType>, Refusal> {
    match text(headers, &CONTENT_TYPE)? {
        None | Some("") => Ok(None),
        Some(value) => match ContentType::parse(value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(bad(
                "Content-Type must be of the form type/subtype, at most 256 bytes",
            )),
        },
    }
}

/// `Stream-Closed`: counts only when it is `true` in any case; other values are ignored (section 4.1).
pub fn closed(headers: &HeaderMap) -> Result<bool, Refusal> {
    let value = once(headers, &header::STREAM_CLOSED)?.and_then(|v| v.to_str().ok());
    Ok(value.is_some_and(|v| v.trim().eq_ignore_ascii_case("true")))
}

/// `Transfer-Encoding`: hyper takes `chunked` off; any other coding would be stored as it came.
pub fn transfer_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    match text(headers, &TRANSFER_ENCODING)? {
        None => Ok(()),
        Some(coding) if coding.eq_ignore_ascii_case("chunked") => Ok(()),
        Some(_) => Err(bad("chunked is the only Transfer-Encoding that is taken")),
    }
}

/// `Stream-TTL` and `Stream-Expires-At`.
pub fn expiry(headers: &HeaderMap) -> Result<Option<Expiry>, Refusal> {
    let ttl = text(headers, &header::STREAM_TTL)?;
    let at = text(headers, &header::STREAM_EXPIRES_AT)?;
    match (ttl, at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(bad("give Stream-TTL or Stream-Expires-At, not both")),
        (Some(ttl), None) => match parse_ttl(ttl) {
            Ok(ttl) => Ok(Some(Expiry::Ttl(ttl))),
            Err(TtlError::Form) => Err(bad(
                "Stream-TTL must be whole seconds, digits only, without leading zeros",
            )),
            Err(TtlError::Range) => Err(bad(format!(
                "Stream-TTL must be from 0 to {TTL_SECONDS_MAX} seconds"
            ))),
        },
        (None, Some(at)) => match parse_rfc3339_ms(at) {
            Some(at_ms) => Ok(Some(Expiry::At(at_ms))),
            None => Err(bad(
                "Stream-Expires-At must be an RFC 3339 time such as 2030-01-01T00:00:00Z",
            )),
        },
    }
}

/// `Stream-Max-Age` and `Stream-Max-Bytes`; `None`: neither is there. With `none` as its value, a header says that there
/// is no such bound, which may differ from what a bucket says.
pub fn retention(headers: &HeaderMap) -> Result<Option<Retention>, Refusal> {
    let age = text(headers, &header::STREAM_MAX_AGE)?;
    let bytes = text(headers, &header::STREAM_MAX_BYTES)?;
    if age.is_none() && bytes.is_none() {
        return Ok(None);
    }
    let bound = |given: Option<&str>, name: &HeaderName, unit: &str, max: u64| match given {
        None | Some("none") => Ok(None),
        Some(text) => match whole(text) {
            Some(bound) if (1..=max).contains(&bound) => Ok(Some(bound)),
            _ => Err(bad(format!(
                "{name} must be {unit} from 1 to {max}, digits only, or none"
            ))),
        },
    };
    let seconds = bound(age, &header::STREAM_MAX_AGE, "seconds", MAX_AGE_SECONDS_MAX)?;
    Ok(Some(Retention {
        max_age_ms: seconds.map(|s| s * 1000),
        max_bytes: bound(bytes, &header::STREAM_MAX_BYTES, "bytes", SEQ_MAX)?,
    }))
}

/// `Stream-Seq`.
pub fn stream_seq(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    match text(headers, &header::STREAM_SEQ)? {
        Some("") => Err(bad("Stream-Seq must not be empty")),
        Some(seq) if seq.len() > 1024 => Err(bad("Stream-Seq may have 1024 bytes")),
        other => Ok(other.map(str::to_owned)),
    }
}

/// The producer headers: all three or none (section 5.2.1).
pub fn producer(headers: &HeaderMap) -> Result<Option<Producer>, Refusal> {
    let id = text(headers, &header::PRODUCER_ID)?;
    let epoch = text(headers, &header::PRODUCER_EPOCH)?;
    let seq = text(headers, &header::PRODUCER_SEQ)?;
    let (id, epoch, seq) = match (id, epoch, seq) {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(seq)) => (id, epoch, seq),
        _ => {
            return Err(bad(
                "give Producer-Id, Producer-Epoch and Producer-Seq together, or none of them",
            ));
        }
    };
    if id.is_empty() || id.len() > 1024 {
        return Err(bad("Producer-Id must have 1 to 1024 bytes"));
    }
    Ok(Some(Producer {
        id: id.to_owned(),
        epoch: integer(epoch, &header::PRODUCER_EPOCH)?,
        seq: integer(seq, &header::PRODUCER_SEQ)?,
    }))
}

fn integer(text: &str, name: &HeaderName) -> Result<u64, Refusal> {
    let plain = !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit());
    let value = plain
        .then(|| text.parse().ok())
        .flatten()
        .filter(|v| *v <= SEQ_MAX);
    value.ok_or_else(|| bad(format!("{name} must be an integer from 0 to {SEQ_MAX}")))
}

/// The fork headers (section 4.2).
pub fn fork(headers: &HeaderMap) -> Result<Option<ForkRequest>, Refusal> {
    let source = text(headers, &header::STREAM_FORKED_FROM)?;
    let offset = text(headers, &header::STREAM_FORK_OFFSET)?;
    let sub_offset = text(headers, &header::STREAM_FORK_SUB_OFFSET)?;
    let Some(source) = source else {
        return match (offset, sub_offset) {
            (None, None) => Ok(None),
            _ => Err(bad(
                "Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From",
            )),
        };
    };
    let source = source_key(source)?;
    let offset = match offset {
        None => None,
        Some("-1") => Some(Offset::ZERO),
        Some(token) => Some(
            Offset::parse(token)
                .map_err(|_| bad("Stream-Fork-Offset must be an offset that this server gave"))?,
        ),
    };
    let sub_offset = match sub_offset {
        None => 0,
        Some(token) => whole(token).ok_or_else(|| {
            bad("Stream-Fork-Sub-Offset must be a whole number without sign or leading zeros")
        })?,
    };
    Ok(Some(ForkRequest {
        source,
        offset,
        sub_offset,
    }))
}

fn source_key(path: &str) -> Result<StreamKey, Refusal> {
    stream_path(path)
        .map_err(|_| bad("Stream-Forked-From must be the path of a stream on this server"))
}

fn whole(token: &str) -> Option<u64> {
    let plain = !token.is_empty()
        && token.len() <= 16
        && token.bytes().all(|b| b.is_ascii_digit())
        && (token == "0" || !token.starts_with('0'));
    plain.then(|| token.parse().ok()).flatten()
}

/// Largest cursor that is taken for one that a server gave; higher ones are as good as none.
const CURSOR_MAX: u64 = SEQ_MAX;

/// How a GET wants its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveMode {
    /// What is there.
    CatchUp,
    /// Wait for data once.
    LongPoll,
    /// Follow.
    Sse,
}

/// The query of a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadQuery {
    /// Where to start.
    pub from: ReadFrom,
    /// How.
    pub mode: LiveMode,
    /// The client's last cursor.
    pub cursor: Option<u64>,
}

/// The parameters of a query, percent-decoded once; one whose name does not decode is unknown, so it is left out.
fn parameters(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let pairs = query.unwrap_or("").split('&').filter(|p| !p.is_empty());
    pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name).ok()?, value))
    })
}

/// Keeps a parameter's decoded value; refused if it was there already.
fn keep<'a>(kept: &mut Option<Cow<'a, str>>, name: &str, value: &'a str) -> Result<(), Refusal> {
    if kept.is_some() {
        return Err(bad(format!("{name} is given more than once")));
    }
    let decoded = decode(value).map_err(|_| bad(format!("{name} is not percent-encoded UTF-8")))?;
    *kept = Some(decoded);
    Ok(())
}

/// Reads the query of a GET; unknown parameters are ignored.
///
/// # Errors
/// [`Refusal::Bad`] for a malformed offset, an unknown mode, either of them given twice, or a live mode without
/// offset.
pub fn read_query(query: Option<&str>) -> Result<ReadQuery, Refusal> {
    let (mut offset, mut live, mut cursor) = (None, None, None);
    for (name, value) in parameters(query) {
        match &*name {
            "offset" => keep(&mut offset, "offset", value)?,
            "live" => keep(&mut live, "live", value)?,
            "cursor" => cursor = decode(value).ok(),
            _ => {}
        }
    }
    let mode = match live.as_deref() {
        None => LiveMode::CatchUp,
        Some("long-poll") => LiveMode::LongPoll,
        Some("sse") => LiveMode::Sse,
        Some(_) => return Err(bad("live must be long-poll or sse")),
    };
    // What no server gave cannot be compared, and nothing is above the largest; the answer carries a fresh one.
    let cursor = cursor
        .and_then(|text| text.parse().ok())
        .filter(|cursor| *cursor <= CURSOR_MAX);
    let offset = offset.as_deref();
    let from = match offset {
        None if mode != LiveMode::CatchUp => {
            return Err(bad("a live read needs an offset; -1 is the start"));
        }
        None | Some("-1") => ReadFrom::Start,
        Some("now") => ReadFrom::Now,
        Some(token) => match Offset::parse(token) {
            Ok(offset) => ReadFrom::At(offset),
            Err(_) => return Err(bad("offset must be -1, now, or one that this server gave")),
        },
    };
    Ok(ReadQuery { from, mode, cursor })
}

/// The query of a bucket's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Only ids that start so.
    pub prefix: String,
    /// Only ids above this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Reads `prefix`, `after` and `limit` (1 to 1,000, default 100).
///
/// # Errors
/// [`Refusal::Bad`] for a wrong or repeated one.
pub fn list_query(query: Option<&str>) -> Result<ListQuery, Refusal> {
    let (mut prefix, mut after, mut limit) = (None, None, None);
    for (name, value) in parameters(query) {
        match &*name {
            "prefix" => keep(&mut prefix, "prefix", value)?,
            "after" => keep(&mut after, "after", value)?,
            "limit" => keep(&mut limit, "limit", value)?,
            _ => {}
        }
    }
    let mut list = ListQuery {
        prefix: prefix.map_or_else(String::new, Cow::into_owned),
        after: after.map(Cow::into_owned),
        limit: 100,
    };
    if let Some(text) = limit {
        let limit = text.parse().ok().filter(|l| (1..=1000).contains(l));
        list.limit = limit.ok_or_else(|| bad("limit must be a number from 1 to 1000"))?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_strictly_where_it_matters() {
        let from = |q: &str| read_query(Some(q)).map(|r| r.from);
        assert_eq!(from(""), Ok(ReadFrom::Start));
        assert_eq!(from("offset=-1&x=1"), Ok(ReadFrom::Start));
        assert_eq!(from("offset=now"), Ok(ReadFrom::Now));
        let token = Offset(7).to_string();
        assert_eq!(
            from(&format!("offset={token}&live=sse")),
            Ok(ReadFrom::At(Offset(7)))
        );
        for wrong in [
            "offset=",
            "offset=1&offset=2",
            "offset=-1&offset=%2D1",
            "offset=%252D1",
            "offset=%zz",
            "live=sse&live=long-poll&offset=-1",
            "live=sse",
            "live=x&offset=-1",
            "offset=%2e%2e",
            "offset=a,b",
        ] {
            assert!(from(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            list_query(Some("prefix=a%2F&limit=5")).unwrap().prefix,
            "a/"
        );
        for wrong in [
            "limit=0",
            "limit=1&limit=2",
            "after=%ff",
            "prefix=a&prefix=a",
        ] {
            assert!(list_query(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn query_values_are_decoded_once() {
        let from = |q: &str| read_query(Some(q)).map(|r| r.from);
        assert_eq!(from("offset=%2D1"), Ok(ReadFrom::Start));
        assert_eq!(from("offset=n%6fw"), Ok(ReadFrom::Now));
        let token = Offset(7).to_string().replace('_', "%5F");
        assert_eq!(
            from(&format!("off%73et={token}")),
            Ok(ReadFrom::At(Offset(7)))
        );
        assert_eq!(
            read_query(Some("offset=-1&live=long%2Dpoll")).map(|r| r.mode),
            Ok(LiveMode::LongPoll)
        );
    }

    #[test]
    fn cursors_that_no_server_gave_are_absent() {
        let cursor = |text: &str| read_query(Some(&format!("cursor={text}"))).unwrap().cursor;
        assert_eq!(cursor("17"), Some(17));
        for absent in ["", "x", "-1", "18446744073709551615", "9007199254740992"] {
            assert_eq!(cursor(absent), None, "{absent}");
        }
    }

    #[test]
    fn lifetimes_say_whether_form_or_range_is_wrong() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            expiry(&headers)
        };
        assert_eq!(
            with("stream-ttl", "999999999999"),
            Ok(Some(Expiry::Ttl(TTL_SECONDS_MAX)))
        );
        for (text, part) in [("9999999999999", "from 0 to"), ("01", "leading zeros")] {
            let Err(Refusal::Bad(reason)) = with("stream-ttl", text) else {
                panic!("{text} was taken");
            };
            assert!(reason.contains(part), "{text}: {reason}");
        }
        assert!(with("stream-expires-at", "2030-01-01T00:00:00Z").is_ok());
        assert!(with("stream-expires-at", "2030-01-01 00:00:00Z").is_err());
    }

    #[test]
    fn retention_is_seconds_and_bytes_or_none() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            retention(&headers)
        };
        assert_eq!(with(&[]), Ok(None));
        let both = with(&[("stream-max-age", "60"), ("stream-max-bytes", "1000")]);
        let expected = Retention {
            max_age_ms: Some(60_000),
            max_bytes: Some(1000),
        };
        assert_eq!(both, Ok(Some(expected)));
        assert_eq!(
            with(&[("stream-max-bytes", "none")]),
            Ok(Some(Retention::default()))
        );
        for bad in ["0", "-1", "01", "1.5", "", "1000000000000", "1d"] {
            assert!(with(&[("stream-max-age", bad)]).is_err(), "{bad}");
        }
        assert!(with(&[("stream-max-age", "1"), ("stream-max-age", "1")]).is_err());
    }

    #[test]
    fn a_header_counts_once() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::STREAM_CLOSED, HeaderValue::from_static(value));
            }
            closed(&headers)
        };
        assert_eq!(with(&[]), Ok(false));
        assert_eq!(with(&["TRUE"]), Ok(true));
        for ignored in ["yes", "", "1", "true, true"] {
            assert_eq!(with(&[ignored]), Ok(false), "{ignored}");
        }
        assert!(with(&["true", "true"]).is_err());
        assert!(with(&["true", "false"]).is_err());
    }

    #[test]
    fn producers_come_whole_or_not_at_all() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            producer(&headers)
        };
        assert_eq!(with(&[]), Ok(None));
        let all = [
            ("producer-id", "p"),
            ("producer-epoch", "1"),
            ("producer-seq", "9007199254740991"),
        ];
        assert_eq!(with(&all).unwrap().unwrap().seq, SEQ_MAX);
        assert!(with(&all[..2]).is_err());
        for wrong in ["-1", "1.0", "", "9007199254740992", "+1"] {
            assert!(
                with(&[all[0], all[1], ("producer-seq", wrong)]).is_err(),
                "{wrong}"
            );
        }
    }
}
