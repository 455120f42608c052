//! Catch-up reads (protocol, section 5.6) and what they share with long-polls.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use hyper::header::{self as std_header, HeaderMap};

use super::backend::{Backend, HttpSettings};
use super::body_out::ResponseBody;
use super::header;
use super::parse::ReadQuery;
use super::respond::Reply;
use crate::protocol::{
    Offset, Op, Outcome, Read, ReadFrom, ReadPlan, Refusal, Request, StreamKey, json,
};

/// Bytes of a stream, cut where a reader may stop.
pub struct Fetched {
    /// What was planned.
    pub plan: ReadPlan,
    /// One past the last byte that was planned at first; `end` is beyond it if the first message is.
    pub planned_end: Offset,
    /// One past the last byte.
    pub end: Offset,
    /// The stored bytes.
    pub pieces: Vec<Bytes>,
}

impl Fetched {
    /// The reader has all there is.
    pub fn is_up_to_date(&self) -> bool {
        self.end == self.plan.meta.tail
    }

    /// The tag of what is sent. A cut inside of the plan does not show in it: bytes do not change, so the cut
    /// does not either, and the tag is known before it is made.
    pub fn etag(&self, nonce: u32, gzip: bool) -> String {
        etag(&self.plan, self.end.max(self.planned_end), nonce, gzip)
    }
}

/// Plans a read.
pub async fn plan<B: Backend>(
    backend: &B,
    key: &StreamKey,
    from: ReadFrom,
    bytes_max: u64,
    is_live: bool,
) -> Result<ReadPlan, Refusal> {
    let read = Read {
        from,
        bytes_max,
        is_live,
    };
    let request = Request::on_key(key.clone(), Op::Read(read));
    match backend.submit(request).await {
        Outcome::Read(plan) => Ok(plan),
        Outcome::Refused(refusal) => Err(refusal),
        _ => Err(Refusal::Unavailable),
    }
}

/// Plans the first step of a live read: it includes what was acknowledged before. Where nobody leads the stream's group,
/// what this replica has applied is better than nothing.
pub async fn plan_live<B: Backend>(
    backend: &B,
    key: &StreamKey,
    from: ReadFrom,
    bytes_max: u64,
) -> Result<ReadPlan, Refusal> {
    match plan(backend, key, from, bytes_max, false).await {
        Err(Refusal::Unavailable) => plan(backend, key, from, bytes_max, true).await,
        result => result,
    }
}

/// Fetches a plan's bytes. In JSON mode they end with a message; if the first one is longer than the plan, it
/// comes whole and alone, so that the same offset always gets the same bytes.
pub async fn fetch<B: Backend>(
    backend: &B,
    key: &StreamKey,
    mut plan: ReadPlan,
) -> Result<Fetched, Refusal> {
    let is_json = plan.meta.content_type.is_json();
    let mut planned_end = plan.end;
    let first_planned = plan.end.0 - plan.start.0;
    let mut is_narrowed = false;
    loop {
        let mut pieces = match backend.materialize(&plan).await {
            Ok(pieces) => pieces,
            // What is before lost bytes is answered without them.
            Err(Refusal::BytesLost { from, .. }) if from > plan.start => {
                let bytes_max = from.0 - plan.start.0;
                let at = ReadFrom::At(plan.start);
                plan = self::plan(backend, key, at, bytes_max, true).await?;
                (planned_end, is_narrowed) = (plan.end, true);
                continue;
            }
            Err(refusal) => return Err(refusal),
        };
        if plan.lead > 0 && !strip_lead(&mut pieces) {
            return Err(Refusal::OffsetMisaligned);
        }
        let planned = plan.end.0 - plan.start.0;
        if !is_json || planned == 0 {
            return Ok(Fetched {
                planned_end,
                end: plan.end,
                plan,
                pieces,
            });
        }
        if let Some(len) = json::cut(&mut pieces, first_planned) {
            let end = Offset(plan.start.0 + len);
            return Ok(Fetched {
                plan,
                planned_end,
                end,
                pieces,
            });
        }
        if is_narrowed {
            // The message that is next has lost a part.
            return Err(Refusal::DataDamaged);
        }
        let wider = self::plan(
            backend,
            key,
            ReadFrom::At(plan.start),
            planned.saturating_mul(4),
            true,
        )
        .await?;
        if wider.meta.incarnation != plan.meta.incarnation {
            return Err(Refusal::NotFound);
        }
        if wider.end <= plan.end {
            return Err(Refusal::OffsetMisaligned);
        }
        plan = wider;
    }
}

/// Takes the lead byte off; answers whether it was a message's end.
fn strip_lead(pieces: &mut [Bytes]) -> bool {
    let Some(first) = pieces.iter_mut().find(|p| !p.is_empty()) else {
        return false;
    };
    first.split_to(1).first() == Some(&b'\n')
}

/// Answers a catch-up read.
pub async fn catch_up<B: Backend>(
    backend: &B,
    key: &StreamKey,
    query: &ReadQuery,
    headers: &HeaderMap,
) -> Result<Reply, Refusal> {
    let settings = backend.settings();
    let plan = plan(backend, key, query.from, settings.read_chunk_bytes, false).await?;
    if query.from == ReadFrom::Now {
        return Ok(at_tail(&plan));
    }
    let planned = plan.end.0 - plan.start.0;
    let may_compress = planned >= settings.gzip_bytes_min;
    let gzip = may_compress && accepts_gzip(headers);
    let finish = |reply: &mut Reply, etag: &str| {
        reply.set(std_header::ETAG, etag);
        cacheable(reply, &settings);
        if may_compress {
            reply.set_static(std_header::VARY, "accept-encoding");
        }
    };
    let not_modified = |etag: &str| {
        let mut reply = Reply::new(StatusCode::NOT_MODIFIED);
        finish(&mut reply, etag);
        reply
    };
    // The tag of an answer that is not widened is known before any byte is read.
    let expected = etag(&plan, plan.end, settings.etag_nonce, gzip);
    if matches_etag(headers, &expected) {
        return Ok(not_modified(&expected));
    }
    let fetched = fetch(backend, key, plan).await?;
    let etag = fetched.etag(settings.etag_nonce, gzip);
    if matches_etag(headers, &etag) {
        return Ok(not_modified(&etag));
    }
    let mut reply = data(&fetched);
    finish(&mut reply, &etag);
    let body = body_of(&fetched.plan, fetched.pieces);
    if gzip {
        reply.set_static(std_header::CONTENT_ENCODING, "gzip");
        return Ok(reply.body(ResponseBody::full(compress(body).await)));
    }
    Ok(reply.body(ResponseBody::row(body)))
}

/// The headers of an answer with data.
pub fn data(fetched: &Fetched) -> Reply {
    let mut reply = Reply::new(StatusCode::OK);
    reply.set(
        std_header::CONTENT_TYPE,
        fetched.plan.meta.content_type.as_str(),
    );
    reply.set(header::STREAM_NEXT_OFFSET, &fetched.end.to_string());
    if fetched.is_up_to_date() {
        reply.set_static(header::STREAM_UP_TO_DATE, "true");
        if fetched.plan.meta.closed {
            reply.set_static(header::STREAM_CLOSED, "true");
        }
    }
    reply
}

/// A stream's bytes as its type is read: JSON as one array.
pub fn body_of(plan: &ReadPlan, pieces: Vec<Bytes>) -> Vec<Bytes> {
    if plan.meta.content_type.is_json() {
        json::array(pieces)
    } else {
        pieces
    }
}

/// To `offset=now`: no data, never cached (section 8).
fn at_tail(plan: &ReadPlan) -> Reply {
    let mut reply = Reply::new(StatusCode::OK);
    reply.set(std_header::CONTENT_TYPE, plan.meta.content_type.as_str());
    reply.set(header::STREAM_NEXT_OFFSET, &plan.meta.tail.to_string());
    reply.set_static(header::STREAM_UP_TO_DATE, "true");
    if plan.meta.closed {
        reply.set_static(header::STREAM_CLOSED, "true");
    }
    reply.no_store();
    reply.body(ResponseBody::row(body_of(plan, Vec::new())))
}

/// Names the whole messages of a range: `{store}:{id}:{start}:{end}`, then `:c` where the reader learns of closure
/// (section 10.1), or `:p` where more follows, so that no 304 repeats an "up to date" that is over.
fn etag(plan: &ReadPlan, end: Offset, nonce: u32, gzip: bool) -> String {
    let state = match (end == plan.meta.tail, plan.meta.closed) {
        (true, true) => ":c",
        (true, false) => "",
        (false, _) => ":p",
    };
    let coding = if gzip { ":gz" } else { "" };
    let (id, start) = (plan.meta.incarnation.0, plan.start.0);
    format!("\"{nonce:x}:{id:x}:{start}:{}{state}{coding}\"", end.0)
}

fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(std_header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .map(str::trim)
                .any(|one| one == "*" || one.trim_start_matches("W/") == etag)
        })
}

/// May be kept by caches (section 10.1).
pub fn cacheable(reply: &mut Reply, settings: &HttpSettings) {
    let value = if settings.cache_private {
        "private, max-age=60, stale-while-revalidate=300"
    } else {
        "public, max-age=60, stale-while-revalidate=300"
    };
    reply.set_static(std_header::CACHE_CONTROL, value);
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(std_header::ACCEPT_ENCODING).iter();
    accepted
        .filter_map(|v| v.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
            is_gzip && !parts.any(is_zero_weight)
        })
}

/// `q=0` with any number of zeros behind a point, in any case (RFC 9110, section 12.4.2).
fn is_zero_weight(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    name.trim().eq_ignore_ascii_case("q")
        && value
            .trim()
            .parse::<f32>()
            .is_ok_and(|weight| weight <= 0.0)
}

/// Compresses in slices, so that the core's other clients wait for one slice at most.
async fn compress(pieces: Vec<Bytes>) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for piece in pieces {
        for slice in piece.chunks(64 << 10) {
            encoder.write_all(slice).expect("a vector takes all");
            futures_lite::future::yield_now().await;
        }
    }
    encoder.finish().expect("a vector takes all").into()
}
