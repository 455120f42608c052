//! What every cold store promises.

use bytes::Bytes;
use integration::s3::S3Server;
use storage::cold::{ColdBody, ColdError, ColdKey, ColdStore, prepare};

use super::{Opened, on_executor};

pub fn key(text: &str) -> ColdKey {
    ColdKey::new(text).unwrap()
}

/// Bytes of which no two parts are alike.
pub fn bytes(seed: u32, length: usize) -> Bytes {
    let words = (0..length.div_ceil(4) as u32).map(|i| i.wrapping_mul(2_654_435_761) ^ seed);
    let mut all: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    all.truncate(length);
    all.into()
}

fn body(bytes: &Bytes) -> ColdBody {
    let cut = bytes.len() / 3;
    ColdBody::new(vec![bytes.slice(..cut), bytes.slice(cut..)])
}

/// All of it, on one store. `under` is a prefix that nobody else uses.
pub async fn hold(store: &dyn ColdStore, under: &str) {
    let at = |name: &str| key(&format!("{under}/{name}"));
    // More than one part.
    let objects = [
        (at("a-1"), bytes(1, 0)),
        (at("a/1"), bytes(2, 1)),
        (at("a/2"), bytes(3, 100_000)),
        (at("b"), bytes(4, 6_000_000)),
    ];
    for (key, content) in &objects {
        store.put(key, body(content)).await.unwrap();
        store.put(key, body(content)).await.unwrap();
        let error = store
            .put(key, body(&bytes(9, content.len() + 1)))
            .await
            .unwrap_err();
        assert!(matches!(error, ColdError::Conflict { .. }), "{error:?}");
    }
    for (key, content) in &objects {
        let size = content.len() as u64;
        assert_eq!(store.head(key).await.unwrap(), size, "{key}");
        assert_eq!(store.get(key).await.unwrap(), content, "{key}");
        for (from, to) in [
            (0, size),
            (0, 0),
            (size, size),
            (size / 3, size / 2),
            (size / 2, size),
        ] {
            let part = store.get_range(key, from, to - from).await.unwrap();
            assert_eq!(
                part,
                content.slice(from as usize..to as usize),
                "{key} {from} {to}"
            );
        }
        for (from, length) in [(size, 1), (size / 2, size + 1), (size + 1, 0)] {
            let error = store.get_range(key, from, length).await.unwrap_err();
            assert!(
                matches!(error, ColdError::Corrupt { .. }),
                "{key}: {error:?}"
            );
        }
    }
    for limit in [1, 2, 1000] {
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(|(key, _): &(ColdKey, u64)| key.clone());
            let page = store
                .list(&format!("{under}/"), after.as_ref(), limit)
                .await
                .unwrap();
            let is_last = page.len() < limit;
            listed.extend(page.into_iter().map(|o| (o.key, o.size)));
            if is_last {
                break;
            }
        }
        let expected = objects
            .iter()
            .map(|(key, content)| (key.clone(), content.len() as u64));
        assert_eq!(listed, expected.collect::<Vec<_>>(), "limit {limit}");
    }
    let absent = at("absent");
    for error in [
        store.get(&absent).await.unwrap_err(),
        store.get_range(&absent, 0, 1).await.unwrap_err(),
        store.head(&absent).await.unwrap_err(),
    ] {
        assert!(matches!(error, ColdError::NotFound { .. }), "{error:?}");
    }
    store.delete(std::slice::from_ref(&absent)).await.unwrap();
    let keys: Vec<ColdKey> = objects
        .iter()
        .map(|(key, _)| key.clone())
        .chain([absent])
        .collect();
    store.delete(&keys[..1]).await.unwrap();
    store.delete(&keys).await.unwrap();
    store.delete(&[]).await.unwrap();
    assert!(store.list(under, None, 10).await.unwrap().is_empty());
}

#[test]
fn a_directory_keeps_the_contract() {
    on_executor(|| async {
        let dir = integration::scratch_dir();
        prepare(dir.path()).unwrap();
        let opened = Opened::new(&[("cold", dir.path().to_str().unwrap())]);
        hold(&*opened.store, "x").await;
        assert_eq!(opened.counted("ursula_cold_requests_in_flight"), 0);
    });
}

#[test]
fn s3_keeps_the_contract_and_every_request_is_counted() {
    on_executor(|| async {
        let server = S3Server::start();
        let opened = Opened::s3(&format!("http://{}", server.address), &[]);
        hold(&*opened.store, "x").await;
        assert_eq!(opened.counted("ursula_cold_requests_in_flight"), 0);
        assert_eq!(opened.counted("ursula_cold_retries_total"), 0);
        // Three objects are put at once: each first, then once more, then in conflict.
        assert!(opened.counted("ursula_cold_requests_total") > 30);
        assert_eq!(
            opened.counted("ursula_cold_requests_total{core=\"0\",verb=\"put\",status=\"412\"}"),
            6
        );
        assert!(server.leftovers().is_empty(), "{:?}", server.leftovers());
    });
}

#[test]
fn a_list_goes_on_beyond_a_page_and_all_of_it_can_be_deleted() {
    on_executor(|| async {
        let server = S3Server::start();
        let opened = Opened::s3(&format!("http://{}", server.address), &[]);
        let keys: Vec<ColdKey> = (0..1100).map(|i| key(&format!("many/{i:05}"))).collect();
        for key in &keys {
            let path = server.file(&format!("some/prefix/{key}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let listed = opened.store.list("many/", None, 2000).await.unwrap();
        let listed: Vec<ColdKey> = listed.into_iter().map(|o| o.key).collect();
        assert_eq!(listed, keys);
        opened.store.delete(&keys).await.unwrap();
        assert!(
            opened
                .store
                .list("many/", None, 1)
                .await
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn what_cannot_be_mended_by_trying_again_is_said_at_once() {
    on_executor(|| async {
        let server = S3Server::start();
        let endpoint = format!("http://{}", server.address);
        let k = key("x");
        let denied = Opened::s3(&endpoint, &[("s3_secret_access_key", "wrong")]);
        let error = denied.store.put(&k, body(&bytes(1, 10))).await.unwrap_err();
        assert!(matches!(error, ColdError::Denied { .. }), "{error:?}");
        let nowhere = Opened::s3(&endpoint, &[("cold", "s3://no-such-bucket/a")]);
        let error = nowhere.store.list("", None, 1).await.unwrap_err();
        assert!(error.to_string().contains("bucket"), "{error}");
        for opened in [denied, nowhere] {
            assert_eq!(opened.counted("ursula_cold_retries_total"), 0);
        }
        let gone = Opened::s3("http://127.0.0.1:1", &[("s3_attempts_max", "2")]);
        let error = gone.store.get(&k).await.unwrap_err();
        assert!(matches!(error, ColdError::Unavailable { .. }), "{error:?}");
        assert_eq!(gone.counted("ursula_cold_retries_total"), 1);
    });
}

#[test]
fn an_object_that_rots_in_the_store_is_not_served_whole() {
    on_executor(|| async {
        let server = S3Server::start();
        let opened = Opened::s3(
            &format!("http://{}", server.address),
            &[("s3_attempts_max", "2")],
        );
        let k = key("rotten");
        opened.store.put(&k, body(&bytes(1, 1000))).await.unwrap();
        let path = server.file("some/prefix/rotten");
        let mut content = std::fs::read(&path).unwrap();
        content[500] ^= 1;
        std::fs::write(&path, content).unwrap();
        let error = opened.store.get(&k).await.unwrap_err();
        assert!(matches!(error, ColdError::Corrupt { .. }), "{error:?}");
    });
}
