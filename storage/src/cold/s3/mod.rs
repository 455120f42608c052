//! A cold store on S3, or on what speaks its protocol. rusoto's types, XML and signatures; its own client, runtime and
//! TLS are linked and never run.
//! Each request has a time-out, is tried again with exponential backoff and full jitter, and holds one of a fixed
//! number of places while it is under way. A put creates (`If-None-Match: *`) and carries its MD5 for the store to
//! check and as metadata, by which a repeated put knows its own object. On servers that ignore the condition, keys
//! that are given once are what keeps objects from changing.

mod credentials;
mod dispatch;
mod failure;
mod http;
mod multipart;
mod objects;

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use glommio::sync::Semaphore;
use rusoto_s3::S3Client;

use self::credentials::CredentialCache;
pub use self::credentials::{CredentialSource, Credentials, profile_value};
use self::dispatch::Attempt;
use self::failure::Failure;
pub use self::http::{HttpClient, HttpFailure, HttpFuture, HttpReply, HttpRequest};
use super::{
    ColdBody, ColdError, ColdFuture, ColdHost, ColdKey, ColdObject, ColdStore, ColdVerb, InFlight,
};

/// Longest answer that is no object.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// The first pause lasts up to so long, and each further one up to twice as long as the one before.
const PAUSE_MS: u64 = 50;
const PAUSE_MS_MAX: u64 = 5_000;

/// How the store encrypts what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket has it.
    Default,
    /// With keys of S3.
    S3,
    /// With a key of KMS; empty: the account's own.
    Kms(String),
}

/// Where the store is and how it is used.
#[derive(Clone)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// Before every key; empty, or without a slash at its end.
    pub prefix: String,
    /// The region.
    pub region: String,
    /// `http://host:port` or `https://host`.
    pub endpoint: String,
    /// The bucket is named in the path, not in the host.
    pub is_path_style: bool,
    /// Encryption.
    pub encryption: Encryption,
    /// Attempts of one request.
    pub attempts_max: u32,
    /// Requests under way at once.
    pub requests_max: usize,
    /// How long a request may take, beside a second per mebibyte.
    pub timeout_ms: u64,
    /// Objects longer than this are put in parts of this length.
    pub part_bytes: u64,
    /// In the order in which they are tried.
    pub credentials: Vec<CredentialSource>,
}

/// See the module's head.
pub struct S3Store {
    shared: Rc<Shared>,
}

/// What requests share.
struct Shared {
    config: S3Config,
    host: Rc<dyn ColdHost>,
    http: Rc<dyn HttpClient>,
    credentials: CredentialCache,
    places: Semaphore,
    in_flight: InFlight,
}

impl S3Store {
    /// A store for one core. Sends nothing yet: a store that is away for the moment does not hold up a start.
    pub fn open(config: S3Config, host: Rc<dyn ColdHost>, http: Rc<dyn HttpClient>) -> S3Store {
        let credentials = CredentialCache::new(config.credentials.clone(), config.timeout_ms);
        let places = Semaphore::new(config.requests_max.max(1) as u64);
        S3Store {
            shared: Rc::new(Shared {
                config,
                host,
                http,
                credentials,
                places,
                in_flight: InFlight::default(),
            }),
        }
    }
}

impl Shared {
    /// One request, tried again where that may help.
    async fn request<T, E, F>(
        self: &Rc<Self>,
        attempt: impl Fn(Option<&Failure>) -> Attempt,
        send: impl Fn(S3Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, rusoto_core::RusotoError<E>>>,
        E: std::fmt::Debug,
    {
        let mut number = 0;
        let mut last = None;
        loop {
            let this = attempt(last.as_ref());
            let verb = this.verb;
            let failure = match self.attempt(this, &send).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            number += 1;
            if !failure.is_worth_another() || number >= self.config.attempts_max {
                return Err(failure);
            }
            if failure.is_stale_credentials() {
                self.credentials.mistrust();
            }
            log::debug!("event=cold_retry verb={} {failure:?}", verb.name());
            self.host.retried(verb);
            last = Some(failure);
            self.pause(number).await;
        }
    }

    async fn pause(&self, number: u32) {
        let longest_ms = (PAUSE_MS << (number - 1).min(10)).min(PAUSE_MS_MAX);
        let pause_ms = self.host.random() % (longest_ms + 1);
        glommio::timer::sleep(Duration::from_millis(pause_ms)).await;
    }

    async fn attempt<T, E, F>(
        self: &Rc<Self>,
        attempt: Attempt,
        send: impl Fn(S3Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, rusoto_core::RusotoError<E>>>,
        E: std::fmt::Debug,
    {
        let place = self.places.acquire_permit(1).await;
        let _place = place.map_err(|e| Failure::Nonsense(e.to_string()))?;
        let (client, failed) = dispatch::client(self, attempt);
        send(client).await.map_err(|error| {
            let failure = failed.borrow_mut().take();
            failure.unwrap_or_else(|| Failure::Nonsense(format!("{error:?}")))
        })
    }
}

impl ColdStore for S3Store {
    fn put<'a>(&'a self, key: &'a ColdKey, body: ColdBody) -> ColdFuture<'a, ()> {
        Box::pin(self.shared.put(key, body))
    }

    fn get_range<'a>(&'a self, key: &'a ColdKey, from: u64, length: u64) -> ColdFuture<'a, Bytes> {
        Box::pin(async move {
            // There is no range of nothing.
            let wanted = length.max(1);
            let last = from
                .checked_add(wanted - 1)
                .ok_or_else(|| ColdError::Corrupt {
                    key: key.clone(),
                    what: "no object is that long".to_owned(),
                })?;
            let range = Some(format!("bytes={from}-{last}"));
            if length == 0 {
                let size = self.head(key).await?;
                if from <= size {
                    return Ok(Bytes::new());
                }
            }
            let fetched = self.shared.fetch(key, range, wanted).await;
            let (bytes, _) = fetched.map_err(|f| f.into_error("get", Some(key)))?;
            if bytes.len() as u64 != length {
                return Err(ColdError::Corrupt {
                    key: key.clone(),
                    what: format!("{length} bytes from {from} on are {} bytes", bytes.len()),
                });
            }
            Ok(bytes)
        })
    }

    fn get<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, Bytes> {
        Box::pin(async move {
            let got = self.shared.get(key).await;
            got.map_err(|f| f.into_error("get", Some(key)))
        })
    }

    fn head<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, u64> {
        Box::pin(async move {
            let described = self.shared.describe(key).await;
            let (size, _) = described.map_err(|f| f.into_error("head", Some(key)))?;
            Ok(size)
        })
    }

    fn delete<'a>(&'a self, keys: &'a [ColdKey]) -> ColdFuture<'a, ()> {
        Box::pin(async move {
            let deleted = self.shared.delete(keys).await;
            deleted.map_err(|f| f.into_error("delete", keys.first()))
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a ColdKey>,
        limit: usize,
    ) -> ColdFuture<'a, Vec<ColdObject>> {
        Box::pin(async move {
            let listed = self.shared.list(prefix, after, limit).await;
            listed.map_err(|f| f.into_error("list", None))
        })
    }

    fn is_local(&self) -> bool {
        false
    }
}

fn simple(verb: ColdVerb) -> Attempt {
    Attempt {
        verb,
        answer_bytes_max: ANSWER_BYTES_MAX,
        expected_bytes: 0,
        is_create_only: false,
    }
}
