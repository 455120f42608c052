//! Puts in parts: for objects that are too long for one request. Each part is billed, so packs of the usual size are
//! put at once. An upload that does not come to its end is given up: parts without an object would be kept and billed
//! for ever.

use std::rc::{Rc, Weak};

use bytes::Bytes;
use rusoto_s3::{
    AbortMultipartUploadRequest, CompleteMultipartUploadRequest, CompletedMultipartUpload,
    CompletedPart, CreateMultipartUploadRequest, S3, UploadPartRequest,
};

use super::super::{ColdBody, ColdKey, ColdVerb};
use super::dispatch::Attempt;
use super::failure::Failure;
use super::objects::{Sum, stream_of, sum_of};
use super::{Shared, simple};

impl Shared {
    /// In a task of its own: an upload that nobody waits for any more ends after the part that is under way, since a
    /// store may keep a part that arrives while its upload is given up.
    pub(super) async fn put_in_parts(
        self: &Rc<Self>,
        key: &ColdKey,
        body: &ColdBody,
        sum: &Sum,
    ) -> Result<(), Failure> {
        let (this, key, body, sum) = (self.clone(), key.clone(), body.clone(), sum.clone());
        let waited_for = Rc::new(());
        let is_waited_for = Rc::downgrade(&waited_for);
        let task = glommio::spawn_local(async move {
            let upload = this.create_upload(&key, &sum).await?;
            let put = this
                .put_parts(&key, &upload, &body, &sum, &is_waited_for)
                .await;
            if put.is_err() {
                this.abort_upload(upload).await;
            }
            put
        })
        .detach();
        let ended = task.await;
        drop(waited_for);
        ended.unwrap_or_else(|| Err(Failure::Nonsense("the core ends".to_owned())))
    }

    async fn put_parts(
        self: &Rc<Self>,
        key: &ColdKey,
        upload: &Upload,
        body: &ColdBody,
        sum: &Sum,
        is_waited_for: &Weak<()>,
    ) -> Result<(), Failure> {
        let mut parts = Vec::new();
        for (number, pieces) in (1..).zip(parts_of(body, self.config.part_bytes)) {
            if is_waited_for.strong_count() == 0 {
                return Err(Failure::Nonsense("nobody waits for it".to_owned()));
            }
            parts.push(self.put_part(upload, number, pieces).await?);
        }
        match self.complete_upload(upload, parts).await {
            Err(Failure::Refused(answer)) if answer.status != 412 => {
                // It may have been completed, and the answer lost: the object says whether that is so.
                match self.is_content(key, sum).await {
                    Ok(true) => Ok(()),
                    _ => Err(Failure::Refused(answer)),
                }
            }
            completed => completed,
        }
    }

    async fn create_upload(self: &Rc<Self>, key: &ColdKey, sum: &Sum) -> Result<Upload, Failure> {
        let (server_side_encryption, ssekms_key_id) = self.encryption();
        let input = CreateMultipartUploadRequest {
            bucket: self.config.bucket.clone(),
            key: self.full_key(key.as_str()),
            metadata: Some(sum.metadata()),
            server_side_encryption,
            ssekms_key_id,
            ..CreateMultipartUploadRequest::default()
        };
        let answer = self
            .request(
                |_| simple(ColdVerb::CreateUpload),
                |client| {
                    let input = input.clone();
                    async move { client.create_multipart_upload(input).await }
                },
            )
            .await?;
        let id = answer.upload_id;
        Ok(Upload {
            key: input.key,
            id: id.ok_or_else(|| Failure::Nonsense("an upload without an id".to_owned()))?,
        })
    }

    async fn put_part(
        self: &Rc<Self>,
        upload: &Upload,
        number: i64,
        pieces: Vec<Bytes>,
    ) -> Result<CompletedPart, Failure> {
        let sum = sum_of(pieces.clone()).await;
        let send = || {
            self.request(
                |_| simple(ColdVerb::PutPart),
                |client| {
                    let input = UploadPartRequest {
                        bucket: self.config.bucket.clone(),
                        key: upload.key.clone(),
                        upload_id: upload.id.clone(),
                        part_number: number,
                        body: Some(stream_of(&pieces)),
                        content_length: Some(sum.length as i64),
                        content_md5: Some(sum.base64.clone()),
                        ..UploadPartRequest::default()
                    };
                    async move { client.upload_part(input).await }
                },
            )
        };
        for _ in 0..self.config.attempts_max {
            let answer = send().await?;
            let encryption = answer.server_side_encryption.unwrap_or_default();
            let tag = answer.e_tag.unwrap_or_default();
            // s3s-fs does not look at a part's MD5, but answers with it; with KMS, the tag is something else.
            if encryption.starts_with("aws:kms") || sum.is_named_by(&tag) {
                return Ok(CompletedPart {
                    e_tag: Some(tag),
                    part_number: Some(number),
                });
            }
            self.host.retried(ColdVerb::PutPart);
        }
        Err(Failure::Damaged("a part of it arrives changed".to_owned()))
    }

    async fn complete_upload(
        self: &Rc<Self>,
        upload: &Upload,
        parts: Vec<CompletedPart>,
    ) -> Result<(), Failure> {
        let input = CompleteMultipartUploadRequest {
            bucket: self.config.bucket.clone(),
            key: upload.key.clone(),
            upload_id: upload.id.clone(),
            multipart_upload: Some(CompletedMultipartUpload { parts: Some(parts) }),
            ..CompleteMultipartUploadRequest::default()
        };
        let attempt = |_: Option<&Failure>| Attempt {
            is_create_only: true,
            ..simple(ColdVerb::CompleteUpload)
        };
        let sent = self.request(attempt, |client| {
            let input = input.clone();
            async move { client.complete_multipart_upload(input).await }
        });
        sent.await.map(|_| ())
    }

    async fn abort_upload(self: &Rc<Self>, upload: Upload) {
        let input = AbortMultipartUploadRequest {
            bucket: self.config.bucket.clone(),
            key: upload.key,
            upload_id: upload.id,
            ..AbortMultipartUploadRequest::default()
        };
        let sent = self.request(
            |_| simple(ColdVerb::AbortUpload),
            |client| {
                let input = input.clone();
                async move { client.abort_multipart_upload(input).await }
            },
        );
        match sent.await {
            Ok(_) => {}
            Err(Failure::Refused(answer)) if answer.status < 500 => {
                log::debug!("event=upload_gone {answer:?}");
            }
            Err(failure) => {
                let key = &input.key;
                log::warn!(
                    "event=upload_not_aborted key={key} its parts are kept and billed until a lifecycle rule of the bucket removes \
                     incomplete uploads: {failure:?}"
                );
            }
        }
    }
}

/// An upload that has begun.
struct Upload {
    key: String,
    id: String,
}

/// The body in parts of `part_bytes`; only the last is shorter.
fn parts_of(body: &ColdBody, part_bytes: u64) -> Vec<Vec<Bytes>> {
    let mut parts = vec![Vec::new()];
    let mut room = part_bytes as usize;
    for piece in body.pieces() {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            if room == 0 {
                parts.push(Vec::new());
                room = part_bytes as usize;
            }
            let taken = rest.split_to(rest.len().min(room));
            room -= taken.len();
            if let Some(part) = parts.last_mut() {
                part.push(taken);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_one_length_and_together_are_the_body() {
        let pieces: Vec<Bytes> = [3, 0, 7, 1, 12]
            .iter()
            .map(|n| Bytes::from(vec![*n as u8; *n]))
            .collect();
        let body = ColdBody::new(pieces);
        for part_bytes in 1..30 {
            let parts = parts_of(&body, part_bytes);
            let lengths: Vec<usize> = parts
                .iter()
                .map(|p| p.iter().map(Bytes::len).sum())
                .collect();
            let (last, others) = lengths.split_last().unwrap();
            assert!(others.iter().all(|l| *l as u64 == part_bytes));
            assert!((1..=part_bytes).contains(&(*last as u64)));
            assert_eq!(parts.concat().concat(), body.pieces().concat());
        }
    }
}
