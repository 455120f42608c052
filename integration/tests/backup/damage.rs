//! A backup that is not whole is refused, and what is wrong is named.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::{Server, scratch_dir};

use super::load::Written;
use super::{Place, pairs, said, until_shipped, ursula, verify, with, words};

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// `backup verify` and `restore` both name this.
fn expect_named(place: &Place, name: &str, what: &str) {
    let from = ("--from".to_owned(), place.from.clone());
    let verified = ursula(&["backup", "verify"], &vec![from.clone()]);
    let text = said(&verified);
    assert_eq!(verified.status.code(), Some(1), "{what}: {text}");
    assert!(text.contains(name), "{what}: {name} is not in {text}");
    let target = scratch_dir();
    let dir = target.path().join("data");
    let flags = vec![
        from,
        ("--wal-dir".to_owned(), dir.to_str().unwrap().to_owned()),
        ("--cluster-id".to_owned(), "new".to_owned()),
    ];
    let restored = ursula(&["restore"], &flags);
    let text = said(&restored);
    assert!(!restored.status.success(), "{what}: {text}");
    assert!(text.contains(name), "{what}: {name} is not in {text}");
    let flags = with(flags, &[("--listen", "127.0.0.1:0")]);
    let flags = flags
        .into_iter()
        .filter(|(flag, _)| flag != "--from")
        .collect();
    if dir.is_dir() {
        let started = Server::try_start(&words(&flags));
        assert!(started.is_err(), "a node starts from half a restore");
    }
}

#[test]
fn a_missing_or_damaged_object_is_named_and_nothing_is_restored_from_it() {
    let (dir, store) = (scratch_dir(), scratch_dir());
    let place = Place::dir(store.path());
    let flags = with(
        place.node(),
        &[
            ("--wal-dir", dir.path().to_str().unwrap()),
            ("--raft-group-count", "2"),
        ],
    );
    let server = Server::start(&words(&flags));
    let mut written = Written::default();
    for _ in 0..3 {
        written.more(&mut server.client());
        until_shipped(server.client());
    }
    server.kill();
    verify(&place);
    let unknown = [("--from", place.from.as_str()), ("--from-cluster", "nix")];
    for command in [&["backup", "verify"][..], &["backup", "list"]] {
        let text = said(&ursula(command, &pairs(&unknown)));
        assert!(
            text.contains("\"nix\"") && text.contains("there is: ursula"),
            "{text}"
        );
    }
    let mut all = Vec::new();
    files(store.path(), &mut all);
    all.sort();
    let of = |folder: &str| -> Vec<PathBuf> {
        let is_in = |p: &&PathBuf| p.to_str().unwrap().contains(folder);
        all.iter().filter(is_in).cloned().collect()
    };
    let (shipped, packs) = (of("/ursula/dr/"), of("/ursula/packs/"));
    assert!(shipped.len() >= 3 && packs.len() >= 3, "{all:?}");
    let between = &shipped[shipped.len() / 2];
    // The pack of a stream that is there still, whatever was rewritten.
    for (path, what) in [
        (between, "shipped"),
        (&shipped[0], "the first"),
        (&packs[packs.len() - 1], "a pack"),
    ] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let good = std::fs::read(path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 4;
        std::fs::write(path, &bad).unwrap();
        expect_named(&place, name, &format!("{what}, a flipped bit"));
        std::fs::write(path, &good[..good.len() / 2]).unwrap();
        expect_named(&place, name, &format!("{what}, cut"));
        std::fs::remove_file(path).unwrap();
        expect_named(&place, name, &format!("{what}, missing"));
        std::fs::write(path, &good).unwrap();
    }
    verify(&place);
    let lag = |max_lag: &str| {
        let flags = pairs(&[("--from", &place.from), ("--max-lag", max_lag)]);
        let output = ursula(&["backup", "verify"], &flags);
        (output.status.code(), said(&output))
    };
    let (code, text) = lag("60min");
    assert!(code == Some(0) && text.contains("\nnewest 20"), "{text}");
    let (code, text) = lag("1ms");
    assert!(
        code == Some(1) && text.contains("nothing was shipped since"),
        "{text}"
    );
    for pack in &packs[packs.len() / 2..] {
        std::fs::remove_file(pack).unwrap();
    }
    all_but_the_damaged_is_restored(&place, &written, packs[packs.len() - 1].to_str().unwrap());
}

fn all_but_the_damaged_is_restored(place: &Place, written: &Written, pack: &str) {
    let target = scratch_dir();
    let at = |name: &str| target.path().join(name).to_str().unwrap().to_owned();
    let (data, cold) = (at("data"), at("cold"));
    let flags = pairs(&[
        ("--wal-dir", &data),
        ("--cold", &cold),
        ("--cluster-id", "new"),
    ]);
    let from = with(flags.clone(), &[("--from", &place.from)]);
    std::fs::create_dir_all(target.path().join("data/restoring")).unwrap();
    let text = said(&ursula(&["restore"], &from));
    assert!(text.contains("was broken off"), "{text}");
    std::fs::remove_dir(target.path().join("data/restoring")).unwrap();
    let text = said(&ursula(&["restore"], &from));
    assert!(
        text.contains("bytes ") && text.contains("--skip-damaged"),
        "{text}"
    );
    std::fs::remove_dir_all(&data).unwrap();
    let output = ursula(&["restore"], &with(from, &[("--skip-damaged", "")]));
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let lost: Vec<&str> = text.lines().filter(|l| l.contains("lost: ")).collect();
    let lost = lost.join("\n");
    let name = Path::new(pack).file_name().unwrap().to_str().unwrap();
    assert!(lost.contains(name), "{text}");
    let server = Server::start(&words(&flags));
    let mut client = server.client();
    let mut damaged = 0;
    // What a fork inherits is named at its source.
    let plain = written.streams().filter(|(path, _)| !path.contains("fork"));
    for (path, bytes) in plain {
        let key = path
            .trim_start_matches("/v1/stream")
            .trim_start_matches('/');
        if !lost.contains(&format!("{key} bytes ")) {
            assert!(client.read_all(path) == bytes, "{path} is not what it was");
            continue;
        }
        damaged += 1;
        // What is before the lost bytes may be there.
        let mut reply = client.get(&format!("{path}?offset=-1"));
        let mut from = "-1".to_owned();
        let deadline = Instant::now() + Duration::from_secs(60);
        while reply.status == 200 || reply.status == 503 && Instant::now() < deadline {
            if reply.status == 200 {
                assert!(!reply.body.is_empty(), "{path} is read to its end");
                from = reply.next();
            }
            // Until it is known that there is no copy.
            reply = client.get(&format!("{path}?offset={from}"));
        }
        let text = reply.text();
        assert!(
            reply.status == 500 && text.contains("data_damaged"),
            "{path}: {text}"
        );
    }
    assert!(damaged > 0, "{lost}");
}
