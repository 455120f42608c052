//! The cold store: immutable objects under keys, in a directory or on S3.
//! One instance per core, used on its executor only; it holds no lock and shares nothing.
//! Invariants: an object never changes (I2): a put creates, and a second put under the same key succeeds only with
//! the same content. A get answers the bytes that were put, or an error.

mod error;
mod key;
mod local;
pub mod s3;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

pub use self::error::ColdError;
pub use self::key::{ColdKey, KEY_BYTES_MAX};
pub use self::local::{LocalStore, is_prepared, prepare};

/// The answer of a store, on its way.
pub type ColdFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ColdError>> + 'a>>;

/// See the module's head. Futures may be dropped at any time; a put that was dropped may or may not have been done.
pub trait ColdStore {
    /// Creates an object. When it answers, the object is durable. Done again with the same content it succeeds, so
    /// a put whose answer was lost, or that a crash cut short, is simply repeated.
    ///
    /// # Errors
    /// [`ColdError::Conflict`] if other content has the key; [`ColdError::NoSpace`], which leaves nothing behind.
    fn put<'a>(&'a self, key: &'a ColdKey, body: ColdBody) -> ColdFuture<'a, ()>;

    /// Exactly `length` bytes from byte `from` on.
    ///
    /// # Errors
    /// [`ColdError::NotFound`]; [`ColdError::Corrupt`] if the object ends before.
    fn get_range<'a>(&'a self, key: &'a ColdKey, from: u64, length: u64) -> ColdFuture<'a, Bytes>;

    /// A whole object. Its memory is the caller's to bound: see [`ColdStore::head`].
    ///
    /// # Errors
    /// [`ColdError::NotFound`].
    fn get<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, Bytes>;

    /// An object's size in bytes.
    ///
    /// # Errors
    /// [`ColdError::NotFound`].
    fn head<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, u64>;

    /// Removes objects. One that is not there is no error, so it can be repeated; after an error, some may be gone.
    ///
    /// # Errors
    /// [`ColdError`].
    fn delete<'a>(&'a self, keys: &'a [ColdKey]) -> ColdFuture<'a, ()>;

    /// Up to `limit` objects whose keys begin with `prefix` and sort after `after`, in the order of their bytes. Fewer
    /// than `limit` only where there are no more. On S3 a request per thousand objects.
    ///
    /// # Errors
    /// [`ColdError`].
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a ColdKey>,
        limit: usize,
    ) -> ColdFuture<'a, Vec<ColdObject>>;

    /// Whether each node has a store of its own: then what one node put, another does not find.
    fn is_local(&self) -> bool;
}

/// What a list tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdObject {
    /// Its key.
    pub key: ColdKey,
    /// Its size in bytes.
    pub size: u64,
}

/// What is put: pieces that together are one object. Cloning it copies no bytes.
#[derive(Debug, Clone, Default)]
pub struct ColdBody {
    pieces: Vec<Bytes>,
    length: u64,
}

impl ColdBody {
    /// An object of these pieces, in this order.
    pub fn new(pieces: Vec<Bytes>) -> ColdBody {
        let pieces: Vec<Bytes> = pieces.into_iter().filter(|p| !p.is_empty()).collect();
        let length = pieces.iter().map(|p| p.len() as u64).sum();
        ColdBody { pieces, length }
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The pieces; none is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

impl From<Bytes> for ColdBody {
    fn from(bytes: Bytes) -> ColdBody {
        ColdBody::new(vec![bytes])
    }
}

/// The operations, as metrics and errors name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdVerb {
    /// [`ColdStore::put`], in one request.
    Put,
    /// [`ColdStore::get_range`] and [`ColdStore::get`].
    Get,
    /// [`ColdStore::head`].
    Head,
    /// [`ColdStore::delete`].
    Delete,
    /// [`ColdStore::list`].
    List,
    /// Begins a put in parts.
    CreateUpload,
    /// One part of it.
    PutPart,
    /// Its end.
    CompleteUpload,
    /// The end of one that failed.
    AbortUpload,
}

impl ColdVerb {
    /// All, in the order of their discriminants.
    pub const ALL: [ColdVerb; 9] = [
        ColdVerb::Put,
        ColdVerb::Get,
        ColdVerb::Head,
        ColdVerb::Delete,
        ColdVerb::List,
        ColdVerb::CreateUpload,
        ColdVerb::PutPart,
        ColdVerb::CompleteUpload,
        ColdVerb::AbortUpload,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ColdVerb::Put => "put",
            ColdVerb::Get => "get",
            ColdVerb::Head => "head",
            ColdVerb::Delete => "delete",
            ColdVerb::List => "list",
            ColdVerb::CreateUpload => "create_upload",
            ColdVerb::PutPart => "put_part",
            ColdVerb::CompleteUpload => "complete_upload",
            ColdVerb::AbortUpload => "abort_upload",
        }
    }
}

/// What a store needs of the core that runs it, beside its executor.
pub trait ColdHost {
    /// Microseconds on a clock that never goes back.
    fn monotonic_us(&self) -> u64;

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;

    /// A random number; for jitter.
    fn random(&self) -> u64;

    /// A request to the store ended.
    fn requested(&self, request: ColdRequest);

    /// Requests that are under way.
    fn in_flight(&self, requests: u64);

    /// A request is tried again.
    fn retried(&self, verb: ColdVerb);
}

/// One request to a store, for the metrics. On S3 each is billed.
#[derive(Debug, Clone, Copy)]
pub struct ColdRequest {
    /// What.
    pub verb: ColdVerb,
    /// How it ended: a status code, or a word.
    pub status: &'static str,
    /// How long it took.
    pub micros: u64,
    /// Bytes of the body that was sent.
    pub sent_bytes: u64,
    /// Bytes of the body that came back.
    pub received_bytes: u64,
}

/// How many requests of a store are under way.
#[derive(Debug, Default)]
struct InFlight(Cell<u64>);

/// Counts a request for as long as it lives: its future may be dropped.
struct UnderWay<'a> {
    count: &'a InFlight,
    host: &'a dyn ColdHost,
}

impl InFlight {
    fn enter<'a>(&'a self, host: &'a dyn ColdHost) -> UnderWay<'a> {
        self.0.set(self.0.get() + 1);
        host.in_flight(self.0.get());
        UnderWay { count: self, host }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let count = &self.count.0;
        count.set(count.get() - 1);
        self.host.in_flight(count.get());
    }
}

#[cfg(test)]
pub(crate) mod test_host {
    //! A host for tests: counts, and is not random.

    use std::cell::{Cell, RefCell};

    use super::{ColdHost, ColdRequest, ColdVerb};

    #[derive(Default)]
    pub struct TestHost {
        pub requests: RefCell<Vec<(ColdVerb, &'static str)>>,
        pub in_flight: Cell<u64>,
        next: Cell<u64>,
    }

    impl ColdHost for TestHost {
        fn monotonic_us(&self) -> u64 {
            0
        }

        fn now_ms(&self) -> u64 {
            0
        }

        fn random(&self) -> u64 {
            self.next
                .set(self.next.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            self.next.get()
        }

        fn requested(&self, request: ColdRequest) {
            self.requests
                .borrow_mut()
                .push((request.verb, request.status));
        }

        fn in_flight(&self, requests: u64) {
            self.in_flight.set(requests);
        }

        fn retried(&self, _verb: ColdVerb) {}
    }
}
