//! A core's cold store, and what the store needs of the core.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use storage::cold::s3::{
    CredentialSource, Credentials, Encryption, S3Config, S3Store, profile_value,
};
use storage::cold::{ColdHost, ColdRequest, ColdStore, ColdVerb, LocalStore};

use super::clock::Clock;
use super::http_client::CoreHttp;
use super::tls::TlsRoots;
use crate::config::{ColdPlace, Config};
use crate::ops::metrics::{CoreMetrics, add};

/// The store of core `id`; `None` for a node in memory. A directory was prepared before.
pub fn open_cold(id: u16, config: &Config, metrics: Rc<CoreMetrics>) -> Option<Rc<dyn ColdStore>> {
    let clock = Clock::start();
    let host = Rc::new(Host {
        clock,
        metrics: metrics.clone(),
    });
    match config.cold_place()? {
        ColdPlace::Dir(dir) => Some(Rc::new(LocalStore::open(&dir, id, host))),
        ColdPlace::S3 { bucket, prefix } => {
            let connect_timeout = Duration::from_millis(config.s3_connect_timeout_ms);
            let roots = TlsRoots::new(config.s3_ca_file.clone());
            let told_expiry = move |expires_s| {
                let gauge = &metrics.plain.cold_certificate_expires_timestamp_seconds;
                gauge.set(expires_s);
            };
            let http = Rc::new(CoreHttp::new(roots, connect_timeout, told_expiry));
            let config = s3_config(config, bucket, prefix, &Surroundings::read());
            Some(Rc::new(S3Store::open(config, host, http)))
        }
    }
}

/// Asks the store for one key, so that what is wrong with it is said at the start and not at the first flush. A node
/// serves without it meanwhile.
pub(super) async fn try_cold(store: Rc<dyn ColdStore>) {
    if store.is_local() {
        return;
    }
    match store.list("", None, 1).await {
        Ok(_) => log::info!("event=cold_store_ready"),
        Err(error) => log::error!("event=cold_store_unusable {error}"),
    }
}

/// What the AWS tools look at beside their flags.
#[derive(Default)]
struct Surroundings {
    region: Option<String>,
    key_id: Option<String>,
    secret: Option<String>,
    token: Option<String>,
    profile: Option<String>,
    files: Vec<PathBuf>,
    is_metadata_off: bool,
}

impl Surroundings {
    fn read() -> Surroundings {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = given("HOME").map(|home| PathBuf::from(home).join(".aws"));
        let file = |name: &str, default: &str| {
            let named = given(name).map(PathBuf::from);
            named.or_else(|| home.as_ref().map(|home| home.join(default)))
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        Surroundings {
            region: given("AWS_REGION").or_else(|| given("AWS_DEFAULT_REGION")),
            key_id: given("AWS_ACCESS_KEY_ID"),
            secret: given("AWS_SECRET_ACCESS_KEY"),
            token: given("AWS_SESSION_TOKEN"),
            profile: given("AWS_PROFILE"),
            files: credentials
                .into_iter()
                .chain(file("AWS_CONFIG_FILE", "config"))
                .collect(),
            is_metadata_off: given("AWS_EC2_METADATA_DISABLED").as_deref() == Some("true"),
        }
    }
}

fn s3_config(
    config: &Config,
    bucket: String,
    prefix: String,
    surroundings: &Surroundings,
) -> S3Config {
    let profile = match config.s3_profile.as_str() {
        "" => surroundings
            .profile
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        profile => profile.to_owned(),
    };
    let region_of_profile = || {
        let texts = surroundings
            .files
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok());
        texts
            .into_iter()
            .find_map(|text| profile_value(&text, &profile, "region"))
    };
    let region = Some(config.s3_region.clone())
        .filter(|region| !region.is_empty())
        .or_else(|| surroundings.region.clone())
        .or_else(region_of_profile)
        .unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = match config.s3_endpoint.as_str() {
        "" => format!("https://s3.{region}.amazonaws.com"),
        endpoint => endpoint.to_owned(),
    };
    let is_path_style = match config.s3_addressing.as_str() {
        "path" => true,
        "virtual" => false,
        // A point in a bucket's name breaks the certificate of the host it would be in.
        _ => !config.s3_endpoint.is_empty() || bucket.contains('.'),
    };
    let encryption = match config.s3_encryption.as_str() {
        "s3" => Encryption::S3,
        "kms" => Encryption::Kms(String::new()),
        other => match other.strip_prefix("kms:") {
            Some(key) => Encryption::Kms(key.to_owned()),
            None => Encryption::Default,
        },
    };
    S3Config {
        bucket,
        prefix,
        region,
        endpoint,
        is_path_style,
        encryption,
        attempts_max: config.s3_attempts_max as u32,
        requests_max: config.s3_requests_max as usize,
        timeout_ms: config.s3_request_timeout_ms,
        part_bytes: config.s3_part_bytes,
        credentials: sources(config, profile, surroundings),
    }
}

fn sources(config: &Config, profile: String, surroundings: &Surroundings) -> Vec<CredentialSource> {
    let given = |key_id: &str, secret: &str, token: Option<String>| {
        (!key_id.is_empty()).then(|| {
            CredentialSource::Given(Credentials {
                key_id: key_id.to_owned(),
                secret: secret.to_owned(),
                token: token.filter(|token| !token.is_empty()),
                expires_ms: None,
            })
        })
    };
    let of_settings = given(
        &config.s3_access_key_id,
        &config.s3_secret_access_key.0,
        Some(config.s3_session_token.0.clone()),
    );
    let of_environment = given(
        surroundings.key_id.as_deref().unwrap_or_default(),
        surroundings.secret.as_deref().unwrap_or_default(),
        surroundings.token.clone(),
    );
    let of_files = CredentialSource::Files {
        paths: surroundings.files.clone(),
        profile,
    };
    let is_metadata = !config.s3_metadata_host.is_empty() && !surroundings.is_metadata_off;
    let of_metadata = is_metadata.then(|| CredentialSource::Metadata {
        authority: config.s3_metadata_host.clone(),
    });
    // A profile that was named is meant, also where the environment has keys.
    let is_profile_named = !config.s3_profile.is_empty();
    let of_environment = of_environment.filter(|_| !is_profile_named);
    let all = of_settings
        .into_iter()
        .chain(of_environment)
        .chain([of_files]);
    all.chain(of_metadata).collect()
}

/// Gives a store clocks and chance, and counts what it does.
struct Host {
    clock: Clock,
    metrics: Rc<CoreMetrics>,
}

impl ColdHost for Host {
    fn monotonic_us(&self) -> u64 {
        self.clock.monotonic_us()
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn random(&self) -> u64 {
        self.clock.random()
    }

    fn requested(&self, request: ColdRequest) {
        self.metrics.cold_requested(request);
    }

    fn in_flight(&self, requests: u64) {
        self.metrics.plain.cold_requests_in_flight.set(requests);
    }

    fn retried(&self, _verb: ColdVerb) {
        add(&self.metrics.plain.cold_retries_total, 1);
    }
}
