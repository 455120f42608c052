//! S3 on bad days: every operation under every fault of the proxy.

use std::time::Duration;

use bytes::Bytes;
use integration::s3::{Fault, FaultProxy, S3Server};
use storage::cold::{ColdBody, ColdError};

use super::contract::{bytes, hold, key};
use super::{Opened, on_executor};

/// Each of these, at every second or third request, is hidden from who uses the store.
fn under(fault: Fault) {
    on_executor(move || async move {
        let server = S3Server::start();
        let proxy = FaultProxy::start(&server.address, None);
        let attempts = [("s3_attempts_max", "20")];
        let opened = Opened::s3(&format!("http://{}", proxy.address), &attempts);
        for every in [2, 3] {
            proxy.set(Some(fault), every);
            hold(&*opened.store, &format!("under-{every}")).await;
        }
        assert!(proxy.faults() > 20, "only {} faults", proxy.faults());
        assert_eq!(opened.counted("ursula_cold_requests_in_flight"), 0);
        assert!(server.leftovers().is_empty(), "{:?}", server.leftovers());
    });
}

#[test]
fn late_answers() {
    under(Fault::Delay(Duration::from_millis(30)));
}

#[test]
fn resets() {
    under(Fault::Reset);
}

#[test]
fn internal_errors() {
    under(Fault::Status(500, "InternalError"));
}

#[test]
fn bare_503() {
    under(Fault::Status(503, ""));
}

#[test]
fn slow_down() {
    under(Fault::Status(503, "SlowDown"));
}

#[test]
fn truncated_answers() {
    under(Fault::Truncate);
}

#[test]
fn lost_answers_of_what_was_done() {
    under(Fault::LoseAnswer);
}

/// What comes to the store changed is refused by it and sent again.
#[test]
fn flipped_bits_in_what_is_put_never_become_an_object() {
    on_executor(|| async {
        let server = S3Server::start();
        let proxy = FaultProxy::start(&server.address, None);
        let attempts = [("s3_attempts_max", "20")];
        let opened = Opened::s3(&format!("http://{}", proxy.address), &attempts);
        proxy.set(Some(Fault::FlipRequest), 2);
        for (number, length) in (0..).zip([1, 1000, 100_000, 6_000_000]) {
            let (k, content) = (key(&format!("flip/{number}")), bytes(number, length));
            opened
                .store
                .put(&k, ColdBody::from(content.clone()))
                .await
                .unwrap();
            let kept = std::fs::read(server.file(&format!("some/prefix/{k}"))).unwrap();
            assert!(kept == content, "{k} of {length} bytes is another");
        }
        assert!(opened.counted("ursula_cold_retries_total") > 0);
        assert!(server.leftovers().is_empty(), "{:?}", server.leftovers());
    });
}

/// An object that is read whole is checked here; chunks are checked by who knows their checksums.
#[test]
fn flipped_bits_in_what_is_read_are_read_again() {
    on_executor(|| async {
        let server = S3Server::start();
        let proxy = FaultProxy::start(&server.address, None);
        let attempts = [("s3_attempts_max", "20")];
        let opened = Opened::s3(&format!("http://{}", proxy.address), &attempts);
        let (k, content) = (key("flip"), bytes(7, 50_000));
        opened
            .store
            .put(&k, ColdBody::from(content.clone()))
            .await
            .unwrap();
        proxy.set(Some(Fault::FlipAnswer), 2);
        for _ in 0..10 {
            assert_eq!(opened.store.get(&k).await.unwrap(), content);
        }
        assert!(opened.counted("ursula_cold_retries_total") > 0);
    });
}

/// A server with Nagle's algorithm on sends what follows a small piece only when that was acknowledged.
#[test]
fn what_came_is_acknowledged_when_it_is_taken() {
    on_executor(|| async {
        const PIECES: u64 = 64;
        let server = S3Server::start();
        let proxy = FaultProxy::start(&server.address, None);
        let settings = [("s3_request_timeout_ms", "20s")];
        let opened = Opened::s3(&format!("http://{}", proxy.address), &settings);
        let (k, content) = (key("pieces"), bytes(3, 6400));
        opened
            .store
            .put(&k, ColdBody::from(content.clone()))
            .await
            .unwrap();
        // A connection's first segments are acknowledged at once by the kernel itself.
        assert_eq!(opened.store.get(&k).await.unwrap(), content);
        proxy.set(Some(Fault::Pieces(PIECES as usize)), 1);
        assert_eq!(opened.store.get(&k).await.unwrap(), content);
        assert_eq!(proxy.faults(), 1);
        // Who takes a piece and loses its CPU before it says so acknowledges it with the next.
        let came = proxy.acknowledgements();
        assert!(
            came >= PIECES * 3 / 4,
            "{came} segments for {PIECES} pieces"
        );
    });
}

#[test]
fn a_store_that_says_nothing_is_given_up_in_time_and_used_again_later() {
    on_executor(|| async {
        let server = S3Server::start();
        let proxy = FaultProxy::start(&server.address, None);
        let settings = [("s3_attempts_max", "3"), ("s3_request_timeout_ms", "50ms")];
        let opened = Opened::s3(&format!("http://{}", proxy.address), &settings);
        let k = key("silent");
        proxy.set(Some(Fault::Silence), 1);
        let content = Bytes::from_static(b"hello");
        let error = opened
            .store
            .put(&k, content.clone().into())
            .await
            .unwrap_err();
        assert!(matches!(error, ColdError::Unavailable { .. }), "{error:?}");
        assert_eq!(opened.counted("ursula_cold_requests_total"), 3);
        assert_eq!(opened.counted("ursula_cold_requests_in_flight"), 0);
        proxy.set(None, 1);
        opened.store.put(&k, content.clone().into()).await.unwrap();
        assert_eq!(opened.store.get(&k).await.unwrap(), content);
    });
}

/// An upload in parts that fails, or whose future is dropped, leaves no parts behind.
#[test]
fn what_was_begun_in_parts_and_not_ended_is_given_up() {
    on_executor(|| async {
        let server = S3Server::start();
        let proxy = FaultProxy::start(&server.address, None);
        let settings = [("s3_attempts_max", "3")];
        let opened = Opened::s3(&format!("http://{}", proxy.address), &settings);
        let content = bytes(1, 12_000_000);
        for number in 0..3 {
            let k = key(&format!("begun/{number}"));
            let put = opened.store.put(&k, ColdBody::from(content.clone()));
            let after_a_part = async {
                let before = proxy.requests();
                while proxy.requests() < before + 2 {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            };
            futures_lite::FutureExt::or(put, after_a_part)
                .await
                .unwrap();
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            let aborts = "ursula_cold_requests_total{core=\"0\",verb=\"abort_upload\"";
            while opened.counted(aborts) <= number {
                assert!(
                    std::time::Instant::now() < deadline,
                    "the upload is not aborted"
                );
                glommio::timer::sleep(Duration::from_millis(5)).await;
            }
            assert!(server.leftovers().is_empty(), "{:?}", server.leftovers());
        }
    });
}
