//! S3 by TLS: a server with a certificate of a private authority.

use std::sync::Arc;

use integration::s3::{FaultProxy, S3Server};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use storage::cold::ColdError;

use super::contract::{hold, key};
use super::{Opened, on_executor};

/// Seconds since 1970 at which the certificates of these tests end: in the year 2099.
const EXPIRES_S: u64 = 4_084_560_000;

/// A server's configuration, and the PEM of the authority that vouches for it.
fn authority(name: &str) -> (Arc<ServerConfig>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, &ca_key);
    let own_key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec![name.to_owned()]).unwrap();
    own.not_after = rcgen::date_time_ymd(2099, 6, 8);
    let own = own.signed_by(&own_key, &issuer).unwrap();
    (served(&own, &own_key), ca.pem())
}

/// The configuration of a server that shows this certificate.
fn served(own: &Certificate, own_key: &KeyPair) -> Arc<ServerConfig> {
    let secret = PrivateKeyDer::try_from(own_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], secret)
        .unwrap();
    Arc::new(config)
}

#[test]
fn a_private_authority_is_believed_where_it_is_named_and_only_there() {
    on_executor(|| async {
        let server = S3Server::start();
        let (config, pem) = authority("127.0.0.1");
        let proxy = FaultProxy::start(&server.address, Some(config));
        let dir = integration::scratch_dir();
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let endpoint = format!("https://{}", proxy.address);
        let ca = file("ca.pem", &pem);
        let opened = Opened::s3(&endpoint, &[("s3_ca_file", &ca)]);
        let expires = "ursula_cold_certificate_expires_timestamp_seconds{";
        assert_eq!(opened.counted(expires), 0);
        hold(&*opened.store, "tls").await;
        assert_eq!(opened.counted(expires), EXPIRES_S, "as its server showed");

        let (_, other) = authority("127.0.0.1");
        for (wrong, words) in [
            (file("other.pem", &other), "TLS with the cold store fails"),
            (file("empty.pem", ""), "it has no certificate"),
            (
                dir.path().join("none.pem").to_str().unwrap().to_owned(),
                "none.pem",
            ),
        ] {
            let opened = Opened::s3(&endpoint, &[("s3_ca_file", &wrong)]);
            let error = opened.store.head(&key("x")).await.unwrap_err();
            assert!(
                matches!(error, ColdError::Misconfigured { .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains(words), "{error}");
        }
        let opened = Opened::s3(&endpoint, &[]);
        let error = opened.store.head(&key("x")).await.unwrap_err();
        assert!(error.to_string().contains("s3_ca_file"), "{error}");
        // The other protocol than the server's.
        for (endpoint, words) in [
            (format!("http://{}", proxy.address), "begin with https://"),
            (format!("https://{}", server.address), "begin with http://"),
        ] {
            let opened = Opened::s3(&endpoint, &[("s3_ca_file", &ca), ("s3_attempts_max", "1")]);
            let error = opened.store.head(&key("x")).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    });
}

#[test]
fn an_authority_that_serves_with_its_own_certificate_is_told_what_is_wrong() {
    on_executor(|| async {
        let server = S3Server::start();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own_key = KeyPair::generate().unwrap();
        let own = params.self_signed(&own_key).unwrap();
        let proxy = FaultProxy::start(&server.address, Some(served(&own, &own_key)));
        let dir = integration::scratch_dir();
        let ca = dir.path().join("own.pem");
        std::fs::write(&ca, own.pem()).unwrap();
        let endpoint = format!("https://{}", proxy.address);
        let opened = Opened::s3(&endpoint, &[("s3_ca_file", ca.to_str().unwrap())]);
        let error = opened.store.head(&key("x")).await.unwrap_err();
        assert!(error.to_string().contains("an authority has"), "{error}");
    });
}

#[test]
fn a_certificate_of_another_name_is_refused() {
    on_executor(|| async {
        let server = S3Server::start();
        let (config, pem) = authority("elsewhere.example");
        let proxy = FaultProxy::start(&server.address, Some(config));
        let dir = integration::scratch_dir();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, pem).unwrap();
        let endpoint = format!("https://{}", proxy.address);
        let opened = Opened::s3(&endpoint, &[("s3_ca_file", ca.to_str().unwrap())]);
        let error = opened.store.head(&key("x")).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{error}");
    });
}
