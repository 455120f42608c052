//! Where the keys come from.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use integration::s3::{BUCKET, KEY_ID, S3Server, SECRET};

use super::contract::key;
use super::{Opened, on_executor};

/// A metadata service of version 2 that gives the server's key, valid until `expiration`; counts its answers.
fn metadata_service(expiration: &'static str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let given = Arc::new(AtomicU64::new(0));
    let counted = given.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                lines.push(line.trim().to_lowercase());
            }
            let is = |text: &str| lines.iter().any(|l| l == text);
            let first = lines.first().cloned().unwrap_or_default();
            let role = "get /latest/meta-data/iam/security-credentials/";
            let (status, body) = if first.starts_with("put /latest/api/token ")
                && is("x-aws-ec2-metadata-token-ttl-seconds: 21600")
            {
                (200, "the-token".to_owned())
            } else if !is("x-aws-ec2-metadata-token: the-token") {
                (401, String::new())
            } else if first.starts_with(&format!("{role}node ")) {
                counted.fetch_add(1, Ordering::Relaxed);
                let json = format!(
                    r#"{{"AccessKeyId":"{KEY_ID}","SecretAccessKey":"{SECRET}","Expiration":"{expiration}"}}"#
                );
                (200, json)
            } else if first.starts_with(&format!("{role} ")) {
                (200, "node".to_owned())
            } else {
                (404, String::new())
            };
            let length = body.len();
            let _ = write!(
                stream.get_mut(),
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    (address, given)
}

#[test]
fn the_metadata_service_gives_keys_that_are_fetched_again_before_they_end() {
    on_executor(|| async {
        let server = S3Server::start();
        for (expiration, fetched) in [("2100-01-01T00:00:00Z", 1), ("2000-01-01T00:00:00Z", 3)] {
            let (address, given) = metadata_service(expiration);
            let opened = Opened::new(&[
                ("cold", &format!("s3://{BUCKET}")),
                ("s3_endpoint", &format!("http://{}", server.address)),
                ("s3_metadata_host", &address),
                ("s3_profile", "a-profile-that-is-nowhere"),
            ]);
            for _ in 0..3 {
                assert!(opened.store.list("", None, 1).await.unwrap().is_empty());
            }
            assert_eq!(given.load(Ordering::Relaxed), fetched, "{expiration}");
        }
    });
}

#[test]
fn without_any_key_the_sources_that_were_asked_are_named() {
    on_executor(|| async {
        let server = S3Server::start();
        let opened = Opened::new(&[
            ("cold", &format!("s3://{BUCKET}")),
            ("s3_endpoint", &format!("http://{}", server.address)),
            ("s3_metadata_host", "127.0.0.1:1"),
            ("s3_profile", "a-profile-that-is-nowhere"),
            ("s3_attempts_max", "2"),
        ]);
        let error = opened.store.head(&key("x")).await.unwrap_err().to_string();
        assert!(error.contains("a-profile-that-is-nowhere"), "{error}");
        assert!(error.contains("metadata service"), "{error}");
    });
}
