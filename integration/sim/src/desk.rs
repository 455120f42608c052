//! The object store as the code of one process sees it: what it asks lies on a desk until the world sends it, and answers come back there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Poll;

use bytes::Bytes;
use storage::cold::{ColdBody, ColdError, ColdFuture, ColdKey, ColdObject, ColdStore};

use crate::store::{Answer, Ask, unavailable};

/// What a process has asked and has been answered.
#[derive(Default)]
struct Desk {
    asked: u64,
    fresh: Vec<(u64, Ask)>,
    answers: BTreeMap<u64, Result<Answer, ColdError>>,
}

/// The store as the code of one process sees it.
#[derive(Default)]
pub struct SimStore {
    desk: RefCell<Desk>,
}

impl SimStore {
    /// Requests that nobody has sent yet.
    pub fn fresh(&self) -> Vec<(u64, Ask)> {
        std::mem::take(&mut self.desk.borrow_mut().fresh)
    }

    /// An answer came.
    pub fn answer(&self, ask: u64, result: Result<Answer, ColdError>) {
        self.desk.borrow_mut().answers.insert(ask, result);
    }

    async fn ask(&self, what: Ask) -> Result<Answer, ColdError> {
        let ask = {
            let mut desk = self.desk.borrow_mut();
            desk.asked += 1;
            let ask = desk.asked;
            desk.fresh.push((ask, what));
            ask
        };
        std::future::poll_fn(|_| match self.desk.borrow_mut().answers.remove(&ask) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        })
        .await
    }
}

impl ColdStore for SimStore {
    fn put<'a>(&'a self, key: &'a ColdKey, body: ColdBody) -> ColdFuture<'a, ()> {
        let bytes = Bytes::from(body.pieces().concat());
        Box::pin(async move { self.ask(Ask::Put(key.clone(), bytes)).await.map(|_| ()) })
    }

    fn get_range<'a>(&'a self, key: &'a ColdKey, from: u64, length: u64) -> ColdFuture<'a, Bytes> {
        Box::pin(async move {
            match self.ask(Ask::Get(key.clone(), from, length)).await? {
                Answer::Bytes(bytes) => Ok(bytes),
                _ => Err(unavailable("get")),
            }
        })
    }

    fn get<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, Bytes> {
        Box::pin(async move {
            let length = self.head(key).await?;
            self.get_range(key, 0, length).await
        })
    }

    fn head<'a>(&'a self, key: &'a ColdKey) -> ColdFuture<'a, u64> {
        Box::pin(async move {
            match self.ask(Ask::Head(key.clone())).await? {
                Answer::Length(length) => Ok(length),
                _ => Err(unavailable("head")),
            }
        })
    }

    fn delete<'a>(&'a self, keys: &'a [ColdKey]) -> ColdFuture<'a, ()> {
        Box::pin(async move { self.ask(Ask::Delete(keys.to_vec())).await.map(|_| ()) })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a ColdKey>,
        limit: usize,
    ) -> ColdFuture<'a, Vec<ColdObject>> {
        let what = Ask::List(prefix.to_owned(), after.cloned(), limit);
        Box::pin(async move {
            match self.ask(what).await? {
                Answer::Listed(objects) => Ok(objects),
                _ => Err(unavailable("list")),
            }
        })
    }

    fn is_local(&self) -> bool {
        false
    }
}
