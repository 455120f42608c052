//! What a bucket is told about encryption: by each object that is put, whole or in parts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use storage::cold::ColdBody;

use super::contract::{bytes, key};
use super::{Opened, on_executor};

/// Takes whatever is put, and tells the head of each request in small letters.
fn taker() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, heads) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap_or(0) > 0 {}
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            let _ = stream.read_exact(&mut body);
            let answer = match head.contains("?uploads") {
                true => {
                    "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                }
                false if head.starts_with("post ") => {
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
                }
                false => "",
            };
            let _ = write!(
                stream.get_mut(),
                "HTTP/1.1 200 OK\r\netag: \"e\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                answer.len()
            );
            let _ = tell.send(head);
        }
    });
    (address, heads)
}

#[test]
fn each_object_is_put_with_the_encryption_that_is_set() {
    on_executor(|| async {
        let cases: [(&str, &[&str], &[&str]); 4] = [
            ("none", &[], &["x-amz-server-side-encryption"]),
            (
                "s3",
                &["x-amz-server-side-encryption: aes256\r\n"],
                &["aws-kms-key-id"],
            ),
            (
                "kms",
                &["x-amz-server-side-encryption: aws:kms\r\n"],
                &["aws-kms-key-id"],
            ),
            (
                "kms:some-key",
                &[
                    "x-amz-server-side-encryption: aws:kms\r\n",
                    "x-amz-server-side-encryption-aws-kms-key-id: some-key\r\n",
                ],
                &[],
            ),
        ];
        for (encryption, said, unsaid) in cases {
            let (address, heads) = taker();
            let settings = [("s3_encryption", encryption), ("s3_attempts_max", "1")];
            let opened = Opened::s3(&format!("http://{address}"), &settings);
            for (name, length) in [("whole", 1000), ("parts", 11 << 20)] {
                let body = ColdBody::new(vec![bytes(1, length)]);
                // Parts are not answered as a store would: only what is asked for counts here.
                let _ = opened.store.put(&key(name), body).await;
                // The first request is what makes the object.
                let first = heads.recv().unwrap();
                assert_eq!(first.contains("?uploads"), name == "parts", "{first}");
                for line in said {
                    assert!(first.contains(line), "{encryption} {name}: {first}");
                }
                for line in unsaid {
                    assert!(!first.contains(line), "{encryption} {name}: {first}");
                }
                while heads.try_recv().is_ok() {}
            }
        }
    });
}
