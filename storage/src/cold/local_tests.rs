//! The directory as a cold store, through its trait.

use std::rc::Rc;

use glommio::{LocalExecutorBuilder, Placement};

use super::super::test_host::TestHost;
use super::*;

fn on_executor<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(64 << 10)
        .spawn(move || async move { test().await })
        .unwrap()
        .join()
        .unwrap();
}

fn key(text: &str) -> ColdKey {
    ColdKey::new(text).unwrap()
}

fn body(text: &'static str) -> ColdBody {
    let (head, tail) = text.split_at(text.len() / 2);
    ColdBody::new(
        [head, "", tail]
            .map(|t| Bytes::from_static(t.as_bytes()))
            .to_vec(),
    )
}

fn store(dir: &Path) -> (LocalStore, Rc<TestHost>) {
    let host: Rc<TestHost> = Rc::default();
    prepare(dir).unwrap();
    (LocalStore::open(dir, 0, host.clone()), host)
}

#[test]
fn an_object_is_created_once_and_read_whole_or_in_parts() {
    on_executor(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (store, host) = store(dir.path());
        let k = key("packs/00001/7");
        store.put(&k, body("hello world")).await.unwrap();
        store.put(&k, body("hello world")).await.unwrap();
        for other in ["hello w0rld", "hello worl", ""] {
            let error = store.put(&k, body(other)).await.unwrap_err();
            assert!(matches!(error, ColdError::Conflict { .. }), "{error}");
        }
        assert_eq!(store.get(&k).await.unwrap(), "hello world");
        assert_eq!(store.get_range(&k, 6, 5).await.unwrap(), "world");
        assert_eq!(store.get_range(&k, 11, 0).await.unwrap(), "");
        assert_eq!(store.head(&k).await.unwrap(), 11);
        for (from, length) in [(7, 5), (12, 0), (u64::MAX, 2)] {
            let error = store.get_range(&k, from, length).await.unwrap_err();
            assert!(matches!(error, ColdError::Corrupt { .. }), "{error}");
        }
        let empty = key("empty");
        store.put(&empty, body("")).await.unwrap();
        assert_eq!(store.get(&empty).await.unwrap(), "");
        assert_eq!(host.in_flight.get(), 0);
        let conflicts = host
            .requests
            .borrow()
            .iter()
            .filter(|r| r.1 == "conflict")
            .count();
        assert_eq!(conflicts, 3);
        assert_eq!(
            std::fs::read_dir(dir.path().join(UNNAMED)).unwrap().count(),
            0
        );
    });
}

#[test]
fn what_is_not_there_is_not_found_and_can_be_deleted() {
    on_executor(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store(dir.path());
        store.put(&key("a/b"), body("x")).await.unwrap();
        for absent in ["c", "a", "a/b/c", "a/c"] {
            let k = key(absent);
            for error in [
                store.get(&k).await.unwrap_err(),
                store.get_range(&k, 0, 1).await.unwrap_err(),
                store.head(&k).await.unwrap_err(),
            ] {
                assert!(
                    matches!(error, ColdError::NotFound { .. }),
                    "{absent}: {error}"
                );
            }
            store.delete(&[k]).await.unwrap();
        }
        store.delete(&[key("c"), key("a/b")]).await.unwrap();
        assert!(store.get(&key("a/b")).await.is_err());
        store.put(&key("a/b"), body("y")).await.unwrap();
        assert_eq!(store.get(&key("a/b")).await.unwrap(), "y");
    });
}

#[test]
fn a_list_is_in_the_order_of_bytes_and_goes_on_where_it_ended() {
    on_executor(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store(dir.path());
        let mut all = ["a/b/c", "a/b-c", "a/b.c", "a/b", "a-b", "b", "a/bb"];
        // `a/b` cannot be a file and a directory at once.
        for k in all.iter().filter(|k| **k != "a/b") {
            store.put(&key(k), body("x")).await.unwrap();
        }
        all.sort_unstable();
        let expected: Vec<&str> = all.into_iter().filter(|k| *k != "a/b").collect();
        for limit in 1..8 {
            let mut found: Vec<ColdObject> = Vec::new();
            loop {
                let after = found.last().map(|o| o.key.clone());
                let more = store.list("", after.as_ref(), limit).await.unwrap();
                let is_last = more.len() < limit;
                found.extend(more);
                if is_last {
                    break;
                }
            }
            let found: Vec<&str> = found.iter().map(|o| o.key.as_str()).collect();
            assert_eq!(found, expected, "limit {limit}");
        }
        let below: Vec<String> = store
            .list("a/b", None, 10)
            .await
            .unwrap()
            .iter()
            .map(|o| o.key.to_string())
            .collect();
        assert_eq!(below, ["a/b-c", "a/b.c", "a/b/c", "a/bb"]);
        assert!(store.list("a/b", None, 0).await.unwrap().is_empty());
        assert!(store.list("nothing/", None, 10).await.unwrap().is_empty());
    });
}

#[test]
fn what_a_crash_left_without_a_name_goes_at_the_next_start() {
    on_executor(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = store(dir.path());
        first.put(&key("a"), body("x")).await.unwrap();
        std::fs::write(dir.path().join(UNNAMED).join("0-1"), b"half").unwrap();
        let (second, _) = store(dir.path());
        assert_eq!(second.list("", None, 10).await.unwrap().len(), 1);
        assert_eq!(
            std::fs::read_dir(dir.path().join(UNNAMED)).unwrap().count(),
            0
        );
    });
}

/// What was put is there after whatever a power cut leaves; what was being put is there whole or not at all.
#[test]
fn whatever_a_power_cut_leaves_of_a_put_is_all_of_it_or_nothing() {
    use crate::tape::{self, Act, Disk};
    const OBJECTS: u64 = 6;
    let content = |number: u64| -> Bytes { vec![number as u8; 700 * number as usize].into() };
    let name = |number: u64| key(&format!("packs/00001/{number}"));
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    tape::begin(dir.path());
    let path = dir.path().to_owned();
    on_executor(move || async move {
        let (store, _) = store(&path);
        for number in 1..=OBJECTS {
            let (key, body) = (name(number), content(number).into());
            store.put(&key, body).await.unwrap();
            tape::note(&path, || Act::Mark(number, 1));
            if number == 4 {
                tape::note(&path, || Act::Mark(1, 0));
                store.delete(&[name(1)]).await.unwrap();
                tape::note(&path, || Act::Mark(1, 2));
            }
        }
    });
    let tape = tape::end(dir.path());
    let mut disk = Disk::default();
    let mut states = 0;
    for (number, act) in tape.iter().enumerate() {
        disk.take(act);
        let is_named = |path: &Path| !path.starts_with(dir.path().join(UNNAMED));
        disk.states(number as u64, &is_named, &mut |files| {
            states += 1;
            for number in 1..=OBJECTS {
                let path = dir.path().join(name(number).as_str());
                let found = files.iter().find(|(named, _)| *named == path);
                if let Some((_, bytes)) = found {
                    assert_eq!(bytes[..], content(number)[..], "half of an object");
                }
                match disk.marks.get(&number) {
                    Some(1) => assert!(found.is_some(), "object {number} is lost"),
                    Some(2) => assert!(found.is_none(), "object {number} is there again"),
                    _ => {}
                }
            }
        });
    }
    assert!(states > 12, "{states} states of {} acts", tape.len());
}
