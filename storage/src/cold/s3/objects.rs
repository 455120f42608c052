//! The operations on objects, as S3 has them.

use std::cell::Cell;
use std::rc::Rc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures_lite::StreamExt;
use md5::{Digest, Md5};
use rusoto_core::ByteStream;
use rusoto_s3::{
    Delete, DeleteObjectRequest, DeleteObjectsRequest, GetObjectRequest, HeadObjectRequest,
    ListObjectsV2Request, ObjectIdentifier, PutObjectRequest, S3,
};

use super::super::{ColdBody, ColdError, ColdKey, ColdObject, ColdVerb};
use super::dispatch::Attempt;
use super::failure::{Answer, Failure};
use super::{ANSWER_BYTES_MAX, Encryption, Shared, simple};
use crate::blocking;

/// Objects of one list or delete: S3's bound.
const PAGE_KEYS: usize = 1000;
/// Longest object that is read whole.
const OBJECT_BYTES_MAX: u64 = 1 << 30;
/// What the time-out of a whole object allows for, whose length is not known before.
const OBJECT_BYTES_USUAL: u64 = 128 << 20;
/// Metadata that holds the MD5 of the whole object.
const META_MD5: &str = "ursula-md5";

impl Shared {
    pub(super) fn full_key(&self, key: &str) -> String {
        match self.config.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// Size and MD5 of an object.
    pub(super) async fn describe(
        self: &Rc<Self>,
        key: &ColdKey,
    ) -> Result<(u64, Option<String>), Failure> {
        let input = HeadObjectRequest {
            bucket: self.config.bucket.clone(),
            key: self.full_key(key.as_str()),
            ..HeadObjectRequest::default()
        };
        let answer = self
            .request(
                |_| simple(ColdVerb::Head),
                |client| {
                    let input = input.clone();
                    async move { client.head_object(input).await }
                },
            )
            .await?;
        let md5 = answer.metadata.and_then(|mut m| m.remove(META_MD5));
        let size = answer.content_length.unwrap_or(-1);
        let size = u64::try_from(size).map_err(|_| Failure::Nonsense("no length".to_owned()))?;
        Ok((size, md5))
    }

    /// Whether an object is what was to be put.
    pub(super) async fn is_content(
        self: &Rc<Self>,
        key: &ColdKey,
        sum: &Sum,
    ) -> Result<bool, Failure> {
        Ok(self.describe(key).await? == (sum.length, Some(sum.hex.clone())))
    }

    pub(super) async fn put(
        self: &Rc<Self>,
        key: &ColdKey,
        body: ColdBody,
    ) -> Result<(), ColdError> {
        let sum = sum_of(body.pieces().to_vec()).await;
        let put = if body.length() > self.config.part_bytes {
            self.put_in_parts(key, &body, &sum).await
        } else {
            self.put_at_once(key, &body, &sum).await
        };
        let failure = match put {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        // The key is taken; by this content too if the answer to an earlier attempt was lost.
        let is_same = failure.is_precondition() && {
            let compared = self.is_content(key, &sum).await;
            compared.map_err(|f| f.into_error("put", Some(key)))?
        };
        match is_same {
            true => Ok(()),
            false => Err(failure.into_error("put", Some(key))),
        }
    }

    async fn put_at_once(
        self: &Rc<Self>,
        key: &ColdKey,
        body: &ColdBody,
        sum: &Sum,
    ) -> Result<(), Failure> {
        let was_damaged = Cell::new(false);
        let put = self.put_once(key, body, sum, true, &was_damaged).await;
        // s3s-fs keeps under its name what it refused for its MD5, without metadata; no object of ours is without.
        let is_rest = was_damaged.get()
            && matches!(&put, Err(failure) if failure.is_precondition())
            && matches!(self.describe(key).await, Ok((_, None)));
        match is_rest {
            true => self.put_once(key, body, sum, false, &was_damaged).await,
            false => put,
        }
    }

    async fn put_once(
        self: &Rc<Self>,
        key: &ColdKey,
        body: &ColdBody,
        sum: &Sum,
        is_create_only: bool,
        was_damaged: &Cell<bool>,
    ) -> Result<(), Failure> {
        let attempt = |last: Option<&Failure>| {
            let is_damaged = last.is_some_and(Failure::is_damaged_upload);
            was_damaged.set(was_damaged.get() || is_damaged);
            Attempt {
                is_create_only,
                ..simple(ColdVerb::Put)
            }
        };
        let sent = self.request(attempt, |client| {
            let (server_side_encryption, ssekms_key_id) = self.encryption();
            let input = PutObjectRequest {
                bucket: self.config.bucket.clone(),
                key: self.full_key(key.as_str()),
                body: Some(stream_of(body.pieces())),
                content_length: Some(body.length() as i64),
                content_md5: Some(sum.base64.clone()),
                metadata: Some(sum.metadata()),
                server_side_encryption,
                ssekms_key_id,
                ..PutObjectRequest::default()
            };
            async move { client.put_object(input).await }
        });
        sent.await.map(|_| ())
    }

    pub(super) fn encryption(&self) -> (Option<String>, Option<String>) {
        match &self.config.encryption {
            Encryption::Default => (None, None),
            Encryption::S3 => (Some("AES256".to_owned()), None),
            Encryption::Kms(key) => {
                let key = (!key.is_empty()).then(|| key.clone());
                (Some("aws:kms".to_owned()), key)
            }
        }
    }

    /// Bytes of an object, `range` or all, and the MD5 of the whole.
    pub(super) async fn fetch(
        self: &Rc<Self>,
        key: &ColdKey,
        range: Option<String>,
        bytes_max: u64,
    ) -> Result<(Bytes, Option<String>), Failure> {
        let input = GetObjectRequest {
            bucket: self.config.bucket.clone(),
            key: self.full_key(key.as_str()),
            range,
            ..GetObjectRequest::default()
        };
        let attempt = |_: Option<&Failure>| Attempt {
            answer_bytes_max: bytes_max.max(ANSWER_BYTES_MAX),
            expected_bytes: bytes_max.min(OBJECT_BYTES_USUAL),
            ..simple(ColdVerb::Get)
        };
        let answer = self
            .request(attempt, |client| {
                let input = input.clone();
                async move { client.get_object(input).await }
            })
            .await?;
        let bytes = match answer.body {
            Some(body) => collect(body).await?,
            None => Bytes::new(),
        };
        Ok((bytes, answer.metadata.and_then(|mut m| m.remove(META_MD5))))
    }

    pub(super) async fn get(self: &Rc<Self>, key: &ColdKey) -> Result<Bytes, Failure> {
        let mut number = 0;
        loop {
            let (bytes, expected) = self.fetch(key, None, OBJECT_BYTES_MAX).await?;
            let sum = sum_of(vec![bytes.clone()]).await;
            if expected.is_none_or(|expected| expected == sum.hex) {
                return Ok(bytes);
            }
            number += 1;
            if number >= self.config.attempts_max {
                return Err(Failure::Damaged("its MD5 is wrong".to_owned()));
            }
            self.host.retried(ColdVerb::Get);
            self.pause(number).await;
        }
    }

    pub(super) async fn delete(self: &Rc<Self>, keys: &[ColdKey]) -> Result<(), Failure> {
        if let [key] = keys {
            let input = DeleteObjectRequest {
                bucket: self.config.bucket.clone(),
                key: self.full_key(key.as_str()),
                ..DeleteObjectRequest::default()
            };
            let sent = self.request(
                |_| simple(ColdVerb::Delete),
                |client| {
                    let input = input.clone();
                    async move { client.delete_object(input).await }
                },
            );
            return match sent.await {
                Err(Failure::Refused(answer)) if is_absent(&answer) => Ok(()),
                sent => sent.map(|_| ()),
            };
        }
        for page in keys.chunks(PAGE_KEYS) {
            let objects = page.iter().map(|key| ObjectIdentifier {
                key: self.full_key(key.as_str()),
                version_id: None,
            });
            let input = DeleteObjectsRequest {
                bucket: self.config.bucket.clone(),
                delete: Delete {
                    objects: objects.collect(),
                    quiet: Some(true),
                },
                ..DeleteObjectsRequest::default()
            };
            let answer = self
                .request(
                    |_| simple(ColdVerb::Delete),
                    |client| {
                        let input = input.clone();
                        async move { client.delete_objects(input).await }
                    },
                )
                .await?;
            let errors = answer.errors.unwrap_or_default().into_iter();
            let mut errors = errors.filter(|e| e.code.as_deref() != Some("NoSuchKey"));
            if let Some(error) = errors.next() {
                let code = error.code.unwrap_or_default();
                let status = if code == "AccessDenied" { 403 } else { 500 };
                let message = error.message.unwrap_or_default();
                return Err(Failure::Refused(Answer {
                    status,
                    code,
                    message,
                }));
            }
        }
        Ok(())
    }

    pub(super) async fn list(
        self: &Rc<Self>,
        prefix: &str,
        after: Option<&ColdKey>,
        limit: usize,
    ) -> Result<Vec<ColdObject>, Failure> {
        let cut = self.full_key("").len();
        let mut found: Vec<ColdObject> = Vec::new();
        let mut after = after.map(|key| self.full_key(key.as_str()));
        while found.len() < limit {
            let input = ListObjectsV2Request {
                bucket: self.config.bucket.clone(),
                prefix: Some(self.full_key(prefix)),
                start_after: after.clone(),
                max_keys: Some((limit - found.len()).min(PAGE_KEYS) as i64),
                ..ListObjectsV2Request::default()
            };
            let answer = self
                .request(
                    |_| simple(ColdVerb::List),
                    |client| {
                        let input = input.clone();
                        async move { client.list_objects_v2(input).await }
                    },
                )
                .await?;
            let page = answer.contents.unwrap_or_default();
            after = page.last().and_then(|o| o.key.clone()).or(after);
            let is_last = page.is_empty() || answer.is_truncated != Some(true);
            found.extend(page.into_iter().filter_map(|object| {
                let text = object.key?;
                let key = ColdKey::new(text.get(cut..)?)?;
                let size = u64::try_from(object.size?).ok()?;
                Some(ColdObject { key, size })
            }));
            if is_last {
                break;
            }
        }
        Ok(found)
    }
}

/// Some servers answer the deletion of what is not there with 404.
fn is_absent(answer: &Answer) -> bool {
    answer.status == 404 && answer.code != "NoSuchBucket"
}

/// What identifies a content.
#[derive(Clone)]
pub(super) struct Sum {
    pub length: u64,
    hex: String,
    pub base64: String,
}

impl Sum {
    /// Whether a tag is this MD5, or none.
    pub(super) fn is_named_by(&self, tag: &str) -> bool {
        let tag = tag.trim_matches('"');
        let is_md5 = tag.len() == 32 && tag.bytes().all(|b| b.is_ascii_hexdigit());
        !is_md5 || tag.eq_ignore_ascii_case(&self.hex)
    }

    #[expect(clippy::disallowed_types, reason = "rusoto's type")]
    pub(super) fn metadata(&self) -> std::collections::HashMap<String, String> {
        std::collections::HashMap::from([(META_MD5.to_owned(), self.hex.clone())])
    }
}

/// Summed by a blocking thread: a pack takes as long as hundreds of requests.
pub(super) async fn sum_of(pieces: Vec<Bytes>) -> Sum {
    let length = pieces.iter().map(|p| p.len() as u64).sum();
    let digest = blocking::run(move || {
        let mut md5 = Md5::new();
        for piece in &pieces {
            md5.update(piece);
        }
        md5.finalize()
    })
    .await;
    Sum {
        length,
        hex: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        base64: BASE64_STANDARD.encode(digest),
    }
}

pub(super) fn stream_of(pieces: &[Bytes]) -> ByteStream {
    let length = pieces.iter().map(Bytes::len).sum();
    let pieces: Vec<std::io::Result<Bytes>> = pieces.iter().cloned().map(Ok).collect();
    ByteStream::new_with_size(futures_lite::stream::iter(pieces), length)
}

async fn collect(mut body: ByteStream) -> Result<Bytes, Failure> {
    let mut all = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| Failure::Nonsense(e.to_string()))?;
        match (first.is_empty(), all.is_empty()) {
            (true, true) => first = piece,
            (false, true) => {
                all.extend_from_slice(&first);
                all.extend_from_slice(&piece);
            }
            _ => all.extend_from_slice(&piece),
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
