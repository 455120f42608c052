//! A server with its cold store on S3.

use std::time::{Duration, Instant};

use integration::s3::{BUCKET, KEY_ID, S3Server, SECRET};
use integration::{Server, scratch_dir};

fn log_says(server: &Server, words: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !server.log().contains(words) {
        assert!(
            Instant::now() < deadline,
            "no {words:?} in\n{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_start_says_whether_the_store_can_be_used_and_serves_either_way() {
    let store = S3Server::start();
    let endpoint = format!("http://{}", store.address);
    let place = format!("s3://{BUCKET}/cluster");
    for (endpoint, secret, words) in [
        (endpoint.as_str(), SECRET, "event=cold_store_ready"),
        (
            endpoint.as_str(),
            "wrong",
            "event=cold_store_unusable message=\"the cold store denies list",
        ),
        (
            "http://127.0.0.1:1",
            SECRET,
            "event=cold_store_unusable message=\"the cold store is unavailable",
        ),
    ] {
        let dir = scratch_dir();
        let settings = [
            "--wal-dir",
            dir.path().to_str().unwrap(),
            "--no-pin",
            "--core-count",
            "2",
            "--cold",
            &place,
            "--s3-endpoint",
            endpoint,
            "--s3-access-key-id",
            KEY_ID,
            "--s3-secret-access-key",
            secret,
            "--s3-attempts-max",
            "2",
        ];
        let server = Server::start(&settings);
        log_says(&server, words);
        let mut client = server.client();
        client.create("/v1/stream/a", "text/plain");
        assert_eq!(
            client.append("/v1/stream/a", "text/plain", b"hello").status,
            204
        );
        let metrics = client.get("/metrics").text();
        let series = "ursula_cold_requests_total{core=\"0\",verb=\"list\"";
        assert!(metrics.contains(series), "{metrics}");
        assert!(server.stop().success());
    }
}
