//! The official suite where nearly every read is of a bucket.

use integration::s3::S3Server;
use integration::{Server, metric, scratch_dir, suite};

use crate::tier::settings;

#[test]
fn the_official_suite_passes_where_nearly_every_read_is_of_a_bucket() {
    let store = S3Server::start();
    let dir = scratch_dir();
    let mut settings = settings(&store.address);
    let wal = dir.path().join("wal").to_str().unwrap().to_owned();
    settings.extend(["--wal-dir".to_owned(), wal]);
    // Room for what the suite writes at once: a refusal is no answer that it expects.
    for (flag, value) in [("--hot-bytes-max", "64MiB"), ("--core-count", "2")] {
        let at = settings.iter().position(|word| word == flag).unwrap();
        settings[at + 1] = value.to_owned();
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::start(&settings);
    suite::run("bucket", &server.url());
    let mut client = server.client();
    assert!(metric(&mut client, "ursula_cold_packs_written_total") > 0);
    assert!(metric(&mut client, "ursula_cold_received_bytes_total") > 0);
    assert_eq!(metric(&mut client, "ursula_cold_read_failures_total"), 0);
    assert!(server.stop().success());
}
