//! Damage to what the others have given up a part of.

use super::*;

/// Bytes before a floor are nowhere any more, and neither are those of a stream that is gone: the chunks that held them are
/// mended without.
#[test]
fn a_damaged_pack_is_mended_though_the_others_have_given_up_a_part_of_it() {
    let _beside = beside_others();
    if nodes() < 3 {
        return skip("a node alone reports it");
    }
    let more = [
        "--hot-bytes-kept",
        "0",
        "--scrub-interval-ms",
        "100ms",
        "--scrub-bytes-per-second",
        "1GiB",
    ];
    let settings = [&SMALL[..], &more].concat();
    let mut cluster = Cluster::start(3, &settings);
    let mut written = Written::create(&cluster);
    written.append(&cluster, 1, 6, "first");
    cluster.wait_ready();
    cluster.expect_equal_states(&[1, 2, 3]);
    cluster.stop(3);
    // While node 3 is away, so that its newest checkpoint still names all of it.
    let mut client = cluster.client(1);
    const CUT: usize = 1234;
    for stream in 0..STREAMS {
        if stream % 4 == 0 {
            let path = format!("{}/retention/{:016}_{:016}", path(stream), 0, CUT);
            assert_eq!(client.send("PUT", &path, &[], b"").status, 204);
        }
    }
    let gone = STREAMS - 1;
    assert_eq!(client.send("DELETE", &path(gone), &[], b"").status, 204);
    let mut packs = checkpointed(&cluster, 3, "pack-");
    packs.retain(|pack| fs::metadata(pack).is_ok_and(|m| m.len() > 100_000));
    for pack in &packs {
        // The first chunks of all streams, among others.
        for position in [500, 17_000, fs::metadata(pack).expect("there").len() / 2] {
            flip(pack, position);
        }
    }
    let before = cluster.log(3).len();
    cluster.start_node(3);
    cluster.wait_ready();
    wait_for("the scrub mends them", || {
        let mut client = cluster.client(3);
        let get = |client: &mut Client, name| integration::metric(client, name);
        let mended = get(&mut client, "ursula_packs_mended_total");
        mended >= packs.len() as u64 && get(&mut client, "ursula_scrub_rounds_total") > 4
    });
    let expect = |cluster: &Cluster, written: &Written| {
        for (stream, kept) in written.0.iter().enumerate().filter(|(s, _)| *s != gone) {
            let from = if stream % 4 == 0 { CUT } else { 0 };
            let read = read_all(cluster, 3, stream);
            assert!(read == kept[from..], "stream {stream}");
        }
    };
    expect(&cluster, &written);
    // What was mended is what a start finds, and what the next checkpoint goes on with.
    cluster.kill(3);
    cluster.start_node(3);
    cluster.wait_ready();
    expect(&cluster, &written);
    let log = cluster.log(3).split_off(before);
    assert!(!log.contains("event=starting_again"), "{log}");
    assert!(set_aside(&cluster, 3).is_empty());
    cluster.expect_equal_states(&[1, 2, 3]);
    for stream in 0..STREAMS - 1 {
        written.append_one(&cluster, 3, stream, "last;");
    }
    expect(&cluster, &written);
}
