//! Renders answers: status, headers, body; and the headers that every answer has.

use hyper::header::{self as std_header, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::backend::HttpSettings;
use super::body_out::ResponseBody;
use super::header;
use crate::protocol::{Created, Expiry, Meta, Offset, ProducerAck, Retention, rfc3339_from_ms};

/// An answer in the making.
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: ResponseBody,
}

impl Reply {
    /// An answer without body.
    pub fn new(status: StatusCode) -> Reply {
        Reply {
            status,
            headers: HeaderMap::with_capacity(6),
            body: ResponseBody::empty(),
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Sets a header to a constant.
    pub fn set_static(&mut self, name: HeaderName, value: &'static str) {
        self.headers.insert(name, HeaderValue::from_static(value));
    }

    /// Sets a header to a text that this server made; what no header can carry is left out.
    pub fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    /// Sets a header to a number.
    pub fn set_number(&mut self, name: HeaderName, value: u64) {
        self.headers.insert(name, HeaderValue::from(value));
    }

    /// Sets the body.
    pub fn body(mut self, body: ResponseBody) -> Reply {
        self.body = body;
        self
    }

    /// Sets a JSON text as the body.
    pub fn body_json(mut self, text: String) -> Reply {
        self.set_static(std_header::CONTENT_TYPE, "application/json");
        self.body(ResponseBody::full(text))
    }

    /// Sets a plain text as the body.
    pub fn body_text(mut self, text: String) -> Reply {
        self.set_static(std_header::CONTENT_TYPE, "text/plain; charset=utf-8");
        self.body(ResponseBody::full(text))
    }

    /// No cache keeps it.
    pub fn no_store(&mut self) {
        self.set_static(std_header::CACHE_CONTROL, "no-store");
    }

    /// The answer with the headers that every answer has (section 12.7), and those of CORS where `is_cors` says that a
    /// browser's script may see it.
    pub fn finish(
        mut self,
        settings: &HttpSettings,
        is_head: bool,
        is_cors: bool,
    ) -> Response<ResponseBody> {
        self.set_static(std_header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        self.set(
            header::CROSS_ORIGIN_RESOURCE_POLICY,
            &settings.cross_origin_resource_policy,
        );
        if is_cors && !settings.cors_allow_origin.is_empty() {
            self.set(
                std_header::ACCESS_CONTROL_ALLOW_ORIGIN,
                &settings.cors_allow_origin,
            );
            self.set_static(std_header::ACCESS_CONTROL_EXPOSE_HEADERS, header::EXPOSED);
        }
        let body = if is_head {
            ResponseBody::empty()
        } else {
            self.body
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// To a preflight.
pub fn preflight(settings: &HttpSettings) -> Reply {
    let mut reply = Reply::new(StatusCode::NO_CONTENT);
    if !settings.cors_allow_origin.is_empty() {
        let methods = "GET, HEAD, POST, PUT, DELETE, OPTIONS";
        reply.set_static(std_header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        reply.set_static(std_header::ACCESS_CONTROL_ALLOW_HEADERS, header::ALLOWED);
        reply.set_static(std_header::ACCESS_CONTROL_MAX_AGE, "86400");
    }
    reply
}

/// To PUT of a stream.
pub fn created(created: &Created, url: &str) -> Reply {
    let status = if created.fresh {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut reply = Reply::new(status);
    if created.fresh {
        reply.set(std_header::LOCATION, url);
    }
    put_meta(&mut reply, &created.meta);
    reply
}

/// To HEAD.
pub fn head(meta: &Meta) -> Reply {
    let mut reply = Reply::new(StatusCode::OK);
    put_meta(&mut reply, meta);
    match meta.expiry {
        Expiry::Never => {}
        Expiry::Ttl(seconds) => reply.set_number(header::STREAM_TTL, seconds),
        Expiry::At(at_ms) => reply.set(header::STREAM_EXPIRES_AT, &rfc3339_from_ms(at_ms)),
    }
    put_retention(&mut reply, meta.retention);
    reply.no_store();
    reply
}

fn put_retention(reply: &mut Reply, retention: Retention) {
    if let Some(max_age_ms) = retention.max_age_ms {
        reply.set_number(header::STREAM_MAX_AGE, max_age_ms / 1000);
    }
    if let Some(max_bytes) = retention.max_bytes {
        reply.set_number(header::STREAM_MAX_BYTES, max_bytes);
    }
}

/// Says that a stream is closed, and its final offset.
pub fn put_closed(reply: &mut Reply, tail: Offset) {
    reply.set_static(header::STREAM_CLOSED, "true");
    reply.set(header::STREAM_NEXT_OFFSET, &tail.to_string());
}

fn put_meta(reply: &mut Reply, meta: &Meta) {
    reply.set(std_header::CONTENT_TYPE, meta.content_type.as_str());
    reply.set(header::STREAM_NEXT_OFFSET, &meta.tail.to_string());
    if meta.closed {
        reply.set_static(header::STREAM_CLOSED, "true");
    }
}

/// To POST.
pub fn appended(
    tail: Offset,
    closed: bool,
    is_new_data: bool,
    producer: Option<ProducerAck>,
) -> Reply {
    let is_new = producer.is_some() && is_new_data;
    let mut reply = Reply::new(if is_new {
        StatusCode::OK
    } else {
        StatusCode::NO_CONTENT
    });
    reply.set(header::STREAM_NEXT_OFFSET, &tail.to_string());
    if closed {
        reply.set_static(header::STREAM_CLOSED, "true");
    }
    if let Some(ack) = producer {
        reply.set_number(header::PRODUCER_EPOCH, ack.epoch);
        reply.set_number(header::PRODUCER_SEQ, ack.seq);
    }
    reply
}
