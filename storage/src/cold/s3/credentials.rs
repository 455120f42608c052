//! Who the store is told that we are: what was given, the standard files, or the machine's metadata service.
//! The first source that has something is used. What ends is fetched anew before it does.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::ColdHost;
use super::failure::Failure;
use super::http::{HttpClient, HttpRequest};
use crate::blocking;

/// Fetched so long before their end.
const EARLY_MS: u64 = 5 * 60 * 1000;
/// Longest answer of the metadata service.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const TOKEN_SECONDS: &str = "21600";

/// A key and what belongs to it.
#[derive(Clone)]
pub struct Credentials {
    /// The key's name.
    pub key_id: String,
    /// The key.
    pub secret: String,
    /// Of a session.
    pub token: Option<String>,
    /// When they end, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// Where credentials come from.
#[derive(Clone)]
pub enum CredentialSource {
    /// They were given.
    Given(Credentials),
    /// The files of the AWS tools, read anew when the store refuses what they had.
    Files {
        /// `credentials` and `config`, in this order.
        paths: Vec<PathBuf>,
        /// Which section.
        profile: String,
    },
    /// The instance metadata service, version 2.
    Metadata {
        /// Its host.
        authority: String,
    },
}

/// The credentials of one core.
pub(super) struct CredentialCache {
    sources: Vec<CredentialSource>,
    timeout_ms: u64,
    known: RefCell<Option<Credentials>>,
    is_stale: Cell<bool>,
}

impl CredentialCache {
    pub(super) fn new(sources: Vec<CredentialSource>, timeout_ms: u64) -> CredentialCache {
        CredentialCache {
            sources,
            timeout_ms,
            known: RefCell::default(),
            is_stale: Cell::new(false),
        }
    }

    /// The store said that they have ended.
    pub(super) fn mistrust(&self) {
        self.is_stale.set(true);
    }

    pub(super) async fn get(
        &self,
        host: &dyn ColdHost,
        http: &dyn HttpClient,
    ) -> Result<Credentials, Failure> {
        let now_ms = host.now_ms();
        let lasts = |known: &Credentials, early_ms: u64| {
            known
                .expires_ms
                .is_none_or(|end_ms| now_ms + early_ms < end_ms)
        };
        let known = self.known.borrow().clone();
        if let Some(known) = &known
            && lasts(known, EARLY_MS)
            && !self.is_stale.get()
        {
            return Ok(known.clone());
        }
        let mut reasons = Vec::new();
        for source in &self.sources {
            match self.fetch(source, http).await {
                Ok(fetched) => {
                    *self.known.borrow_mut() = Some(fetched.clone());
                    self.is_stale.set(false);
                    return Ok(fetched);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        // They are to be fetched early; until their end they serve.
        known
            .filter(|known| lasts(known, 0))
            .ok_or_else(|| Failure::Credentials(reasons.join("; ")))
    }

    async fn fetch(
        &self,
        source: &CredentialSource,
        http: &dyn HttpClient,
    ) -> Result<Credentials, String> {
        match source {
            CredentialSource::Given(given) => Ok(given.clone()),
            CredentialSource::Files { paths, profile } => {
                let (paths, profile) = (paths.clone(), profile.clone());
                blocking::run(move || from_files(&paths, &profile)).await
            }
            CredentialSource::Metadata { authority } => self.ask_metadata(authority, http).await,
        }
    }

    async fn ask_metadata(
        &self,
        authority: &str,
        http: &dyn HttpClient,
    ) -> Result<Credentials, String> {
        let ask = |method, target: String, header: (&str, &str)| {
            let mut headers = vec![
                ("host".to_owned(), authority.to_owned()),
                (header.0.to_owned(), header.1.to_owned()),
            ];
            if method == "PUT" {
                headers.push(("content-length".to_owned(), "0".to_owned()));
            }
            let request = HttpRequest {
                method,
                is_tls: false,
                authority: authority.to_owned(),
                target,
                headers,
                body: Vec::new(),
                answer_bytes_max: ANSWER_BYTES_MAX,
                timeout_ms: self.timeout_ms,
            };
            async move {
                let reply = http.send(request).await;
                let reply = reply.map_err(|e| format!("the metadata service: {e}"))?;
                let text = String::from_utf8_lossy(&reply.body).trim().to_owned();
                match reply.status {
                    200 => Ok(text),
                    status => Err(format!("the metadata service answers {status}")),
                }
            }
        };
        let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
        let token = ask("PUT", "/latest/api/token".to_owned(), ttl).await?;
        let with_token = ("x-aws-ec2-metadata-token", token.as_str());
        let roles = "/latest/meta-data/iam/security-credentials/";
        let role = ask("GET", roles.to_owned(), with_token).await?;
        let role = role.lines().next().unwrap_or_default();
        let found = ask("GET", format!("{roles}{role}"), with_token).await?;
        from_json(&found).ok_or_else(|| "the metadata service has no credentials".to_owned())
    }
}

fn from_json(text: &str) -> Option<Credentials> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| json.get(name)?.as_str().map(str::to_owned);
    let expires = field("Expiration").and_then(|t| OffsetDateTime::parse(&t, &Rfc3339).ok());
    Some(Credentials {
        key_id: field("AccessKeyId")?,
        secret: field("SecretAccessKey")?,
        token: field("Token"),
        expires_ms: expires.map(|t| (t.unix_timestamp().max(0) as u64) * 1000),
    })
}

fn from_files(paths: &[PathBuf], profile: &str) -> Result<Credentials, String> {
    for path in paths {
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        if let Some(found) = from_profile(&text, profile) {
            return Ok(found);
        }
    }
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    Err(format!(
        "no keys of profile {profile} in {}",
        names.join(", ")
    ))
}

/// The keys of a profile; `config` calls its sections `profile name`.
fn from_profile(text: &str, profile: &str) -> Option<Credentials> {
    let value = |name| profile_value(text, profile, name);
    Some(Credentials {
        key_id: value("aws_access_key_id")?,
        secret: value("aws_secret_access_key")?,
        token: value("aws_session_token"),
        expires_ms: None,
    })
}

/// A value of a profile in the text of a file of the AWS tools.
pub fn profile_value(text: &str, profile: &str, name: &str) -> Option<String> {
    let mut is_inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let section = section.trim();
            let section = section.strip_prefix("profile ").unwrap_or(section);
            is_inside = section.trim() == profile;
        } else if is_inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == name
            && !value.trim().is_empty()
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_in_either_file() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=a=b\n\n\
                    [profile x]\nregion = eu-west-1\naws_access_key_id=X\n[y]\naws_secret_access_key=z";
        let default = from_profile(text, "default").unwrap();
        assert_eq!((&*default.key_id, &*default.secret), ("A", "a=b"));
        assert!(from_profile(text, "x").is_none());
        assert_eq!(
            profile_value(text, "x", "region").as_deref(),
            Some("eu-west-1")
        );
        let error = from_files(&[PathBuf::from("/nonexistent")], "x")
            .err()
            .unwrap();
        assert!(error.contains("/nonexistent"), "{error}");
    }

    #[test]
    fn what_the_metadata_service_says_has_an_end() {
        let text = r#"{"AccessKeyId":"A","SecretAccessKey":"s","Token":"t","Expiration":"1970-01-01T00:01:00Z"}"#;
        let found = from_json(text).unwrap();
        assert_eq!(found.expires_ms, Some(60_000));
        assert_eq!(found.token.as_deref(), Some("t"));
        assert!(from_json("{}").is_none());
    }
}
