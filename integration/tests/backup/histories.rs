//! Two clusters of one name, one after the other, are told apart; a restore does without what it does not need; a planned
//! stop leaves nothing behind.

use std::path::Path;

use integration::{Server, scratch_dir};

use super::load::Written;
use super::{Flags, Place, restore, said, until_shipped, ursula, verify, with, words};

fn node(place: &Place, data: &Path) -> Flags {
    let data = data.to_str().unwrap();
    with(
        place.node(),
        &[("--wal-dir", data), ("--raft-group-count", "2")],
    )
}

/// The histories that a refusal names.
fn histories(text: &str) -> Vec<String> {
    let words = text.split([' ', ',', '\n']);
    let is_one = |word: &&str| word.len() == 16 && u64::from_str_radix(word, 16).is_ok();
    words.filter(is_one).map(str::to_owned).collect()
}

#[test]
fn a_cluster_that_was_founded_anew_under_its_name_is_never_mixed_with_the_one_before() {
    let (dir, store) = (scratch_dir(), scratch_dir());
    let place = Place::dir(store.path());
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let mut written = Written::default();
    let server = Server::start(&words(&node(&place, &first)));
    written.more(&mut server.client());
    until_shipped(server.client());
    server.kill();
    std::fs::remove_dir_all(&first).unwrap();
    // The operator starts it again on an empty disk, more than once, so that its terms are higher.
    let flags = with(node(&place, &second), &[("--dr-keep-ms", "1s")]);
    for _ in 0..3 {
        let server = Server::start(&words(&flags));
        let mut client = server.client();
        let (path, kind) = ("/v1/stream/new", "application/octet-stream");
        assert!(matches!(client.create(path, kind).status, 200 | 201));
        assert_eq!(client.append(path, kind, b"x").status, 204);
        until_shipped(server.client());
        assert!(server.stop().success());
    }

    let from = ("--from".to_owned(), place.from.clone());
    let target = dir.path().join("restored");
    let flags = with(
        node(&place, &target),
        &[("--cluster-id", "new"), ("--from-cluster", "ursula")],
    );
    let given: Flags = flags.iter().cloned().chain([from.clone()]).collect();
    let refused = ursula(&["restore"], &given);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("--history"), "{text}");
    let named = histories(&text);
    assert_eq!(named.len(), 2, "{text}");
    for command in ["list", "verify"] {
        let refused = said(&ursula(&["backup", command], &vec![from.clone()]));
        assert_eq!(histories(&refused), named, "{command}: {refused}");
    }
    let mut found = 0;
    for (number, history) in named.iter().enumerate() {
        // What was restored before ships to here too.
        let own = [
            ("--history", history.as_str()),
            ("--from-cluster", "ursula"),
        ];
        let verified = ursula(&["backup", "verify"], &with(vec![from.clone()], &own));
        assert!(verified.status.success(), "{}", said(&verified));
        let data = dir.path().join(format!("data-{number}"));
        let cluster = format!("new-{number}");
        let own = [
            ("--history", history.as_str()),
            ("--wal-dir", data.to_str().unwrap()),
            ("--cluster-id", &cluster),
        ];
        restore(&place, with(flags.clone(), &own));
        let served = with(node(&place, &data), &[("--cluster-id", &cluster)]);
        let server = Server::start(&words(&served));
        let mut client = server.client();
        let is_first = client.send("HEAD", "/v1/stream/new", &[], b"").status == 404;
        if is_first {
            found += 1;
            written.expect(&mut client);
        }
        assert!(server.stop().success());
    }
    assert_eq!(found, 1, "the first cluster is there as it was");
}

#[test]
fn what_no_state_needs_may_be_damaged_and_what_is_not_ours_is_passed_over() {
    let (dir, store) = (scratch_dir(), scratch_dir());
    let place = Place::dir(store.path());
    let mut written = Written::default();
    let server = Server::start(&words(&node(&place, &dir.path().join("old"))));
    written.more(&mut server.client());
    until_shipped(server.client());
    server.kill();
    let shipped = store.path().join("ursula/dr");
    std::fs::write(shipped.join("00-read-me.txt"), "not of a backup").unwrap();
    let target = dir.path().join("new");
    let flags = with(node(&place, &target), &[("--cluster-id", "new")]);
    // An object of years ago, of which nothing is left but its name.
    let ancient = shipped.join("01000000000000-1-00-00000001-00000000000000aa");
    std::fs::write(ancient, "damaged").unwrap();
    restore(&place, with(flags.clone(), &[("--from-cluster", "ursula")]));
    let server = Server::start(&words(&flags));
    written.expect(&mut server.client());
    assert!(server.stop().success());
}

#[test]
fn a_planned_stop_ships_what_there_is() {
    let (dir, store) = (scratch_dir(), scratch_dir());
    let place = Place::dir(store.path());
    let flags = node(&place, &dir.path().join("old"));
    let mut written = Written::default();
    let server = Server::start(&words(&flags));
    written.more(&mut server.client());
    until_shipped(server.client());
    assert!(server.stop().success());
    // What is written behind a round is there after the next one only, which the stop does not wait for.
    let flags = with(flags, &[("--dr-interval-ms", "10s")]);
    let server = Server::start(&words(&flags));
    until_shipped(server.client());
    written.more(&mut server.client());
    assert!(server.stop().success());
    verify(&place);
    let target = dir.path().join("new");
    let flags = with(node(&place, &target), &[("--cluster-id", "new")]);
    restore(&place, with(flags.clone(), &[("--from-cluster", "ursula")]));
    let server = Server::start(&words(&flags));
    written.expect(&mut server.client());
}
