//! A disk of one node that reads elsewhere than it was told to, or cannot read a sector (FAULTS.md, cases 6 and 7).

use std::ops::Range;

use integration::metric;

use super::*;

/// Node 3 has its data on a disk that can fail. `None`: there can be none here, and it says why.
fn on_a_disk(settings: &[&str]) -> Option<Cluster> {
    let mut cluster = Cluster::prepare(3, settings, None);
    if let Err(reason) = cluster.put_on_disk(3) {
        skip(reason);
        return None;
    }
    for node in cluster.ids() {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    Some(cluster)
}

fn name(path: &Path) -> String {
    let tail: PathBuf = path
        .iter()
        .rev()
        .take(2)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    tail.to_string_lossy().into_owned()
}

fn spoil(cluster: &Cluster, node: u32, file: PathBuf, at: u64) -> PathBuf {
    cluster.disk(node).spoil(&name(&file), at);
    file
}

/// The next read that begins there finds what belongs elsewhere.
fn misread(cluster: &Cluster, node: u32, file: PathBuf, begins: Range<u64>) -> PathBuf {
    cluster.disk(node).misread(&name(&file), begins, 8192);
    file
}

#[test]
fn a_log_that_is_misread_or_cannot_be_read_in_one_place_is_rebuilt_by_the_others() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone refuses");
    }
    // No checkpoint, so that sealed segments are there.
    let settings = ["--wal-segment-bytes", "1MiB", "--checkpoint-bytes", "1GiB"];
    let Some(mut cluster) = on_a_disk(&settings) else {
        return;
    };
    each_is_mended(
        &mut cluster,
        &[
            ("a bad sector of a sealed segment", |cluster, node| {
                let sealed = segments(cluster, node)[0].clone();
                spoil(cluster, node, sealed, 300_000)
            }),
            ("a misread sealed segment", |cluster, node| {
                let sealed = segments(cluster, node)[0].clone();
                misread(cluster, node, sealed, 4096..1 << 20)
            }),
        ],
    );
}

#[test]
fn a_checkpoint_that_is_misread_or_cannot_be_read_in_one_place_is_rebuilt_by_the_others() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone refuses");
    }
    let Some(mut cluster) = on_a_disk(&SMALL) else {
        return;
    };
    each_is_mended(
        &mut cluster,
        &[
            ("a bad sector of a manifest", |cluster, node| {
                let manifest = checkpointed(cluster, node, "manifest")[0].clone();
                spoil(cluster, node, manifest, 0)
            }),
            ("a bad sector of a table", |cluster, node| {
                let table = checkpointed(cluster, node, "table-")[0].clone();
                spoil(cluster, node, table, 0)
            }),
            ("a misread table", |cluster, node| {
                let table = checkpointed(cluster, node, "table-")[0].clone();
                cluster.disk(node).misread(&name(&table), 0..4096, 16);
                table
            }),
        ],
    );
}

#[test]
fn a_pack_that_is_misread_or_cannot_be_read_in_one_place_gets_its_bytes_from_the_others() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone reports it");
    }
    let more = ["--hot-bytes-kept", "0"];
    let settings = [&SMALL[..], &more].concat();
    let Some(mut cluster) = on_a_disk(&settings) else {
        return;
    };
    let mut written = Written::create(&cluster);
    written.append(&cluster, 1, 6, "first");
    cluster.wait_ready();
    for is_misread in [false, true] {
        // After a start nothing of what packs have is in memory; a pack is only read when somebody asks for its bytes.
        cluster.stop(3);
        let pack = checkpointed(&cluster, 3, "pack-")[0].clone();
        let middle = fs::metadata(&pack).expect("it is there").len() / 2;
        let before = cluster.log(3).len();
        if is_misread {
            // Not its index, which stands at its end.
            misread(&cluster, 3, pack, 1..middle);
        } else {
            spoil(&cluster, 3, pack, middle);
        }
        cluster.start_node(3);
        cluster.wait_ready();
        written.expect_at(&cluster, 3);
        assert!(!cluster.disk(3).is_armed(), "it was never read there");
        // What is read wrongly once is right when it is read again, by the reader itself or by the mend.
        if !is_misread {
            wait_for("it is mended", || {
                metric(&mut cluster.client(3), "ursula_packs_mended_total") > 0
            });
        }
        let log = cluster.log(3).split_off(before);
        assert!(is_misread || log.contains("event=pack_damaged"), "{log}");
        assert!(!log.contains("event=starting_again"), "{log}");
        written.append(&cluster, 3, 1, "more");
    }
    assert!(set_aside(&cluster, 3).is_empty());
    cluster.expect_equal_states(&[1, 2, 3]);
}
