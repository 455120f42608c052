//! What a failed request means: whether it is sent again, and what the caller is told at last.
//! Judged by status and code of the raw answer: rusoto's typed errors differ per operation and leave most codes out.

use super::super::{ColdError, ColdKey};
use super::http::HttpFailure;

/// How one attempt ended that did not succeed.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// No answer.
    Http(HttpFailure),
    /// An answer that is a refusal.
    Refused(Answer),
    /// No credentials.
    Credentials(String),
    /// An answer that is none of S3.
    Nonsense(String),
    /// Bytes that were changed on the way.
    Damaged(String),
}

/// A refusal.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Answer {
    /// Reads `<Code>` and `<Message>`; a HEAD has neither.
    pub(super) fn read(status: u16, body: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(&body[..body.len().min(16 << 10)]);
        let element = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            let (value, _) = rest.split_once("</")?;
            Some(value.to_owned())
        };
        Answer {
            status,
            code: element("Code").unwrap_or_default(),
            message: element("Message").unwrap_or_default(),
        }
    }

    /// What came after a status that said nothing: the status that goes with the code.
    pub(super) fn read_late(body: &[u8]) -> Answer {
        let mut answer = Answer::read(500, body);
        match answer.code.as_str() {
            "PreconditionFailed" => answer.status = 412,
            "NoSuchUpload" => answer.status = 404,
            "AccessDenied" => answer.status = 403,
            code if code.starts_with("Invalid") || code == "EntityTooSmall" => answer.status = 400,
            _ => {}
        }
        answer
    }

    fn words(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) => format!("status {}", self.status),
            (code, "") => format!("{code} (status {})", self.status),
            (code, message) => format!("{code} (status {}): {message}", self.status),
        }
    }

    fn is_throttle(&self) -> bool {
        self.status == 429
            || matches!(
                self.code.as_str(),
                "SlowDown" | "Throttling" | "ThrottlingException"
            )
            || matches!(
                self.code.as_str(),
                "RequestLimitExceeded" | "TooManyRequests"
            )
    }
}

impl Failure {
    /// The object is there already.
    pub(super) fn is_precondition(&self) -> bool {
        matches!(self, Failure::Refused(answer) if answer.status == 412)
    }

    /// What was sent came to the store as something else.
    pub(super) fn is_damaged_upload(&self) -> bool {
        let damaged = [
            "BadDigest",
            "InvalidDigest",
            "XAmzContentSHA256Mismatch",
            "XAmzContentChecksumMismatch",
        ];
        matches!(self, Failure::Refused(answer) if damaged.contains(&answer.code.as_str()))
    }

    /// Other credentials may help.
    pub(super) fn is_stale_credentials(&self) -> bool {
        let Failure::Refused(answer) = self else {
            return false;
        };
        let stale = ["ExpiredToken", "TokenRefreshRequired", "InvalidAccessKeyId"];
        stale.contains(&answer.code.as_str())
    }

    /// The same request may succeed if it is sent again.
    pub(super) fn is_worth_another(&self) -> bool {
        match self {
            Failure::Http(HttpFailure::TooLong(_) | HttpFailure::Misconfigured(_)) => false,
            Failure::Http(_) | Failure::Damaged(_) | Failure::Nonsense(_) => true,
            Failure::Credentials(_) => true,
            Failure::Refused(answer) => {
                answer.status >= 500
                    || answer.is_throttle()
                    || self.is_stale_credentials()
                    || self.is_damaged_upload()
                    || matches!(
                        answer.code.as_str(),
                        "IncompleteBody"
                            | "RequestTimeout"
                            | "OperationAborted"
                            | "ConditionalRequestConflict"
                            | "MalformedXML"
                    )
            }
        }
    }

    /// What the caller is told.
    pub(super) fn into_error(self, op: &'static str, key: Option<&ColdKey>) -> ColdError {
        match self {
            Failure::Http(HttpFailure::Misconfigured(what)) => ColdError::Misconfigured { what },
            Failure::Http(failure) => ColdError::Unavailable {
                op,
                reason: failure.to_string(),
            },
            Failure::Credentials(reason) => ColdError::Unavailable {
                op,
                reason: format!("no credentials: {reason}"),
            },
            Failure::Nonsense(reason) => ColdError::Unavailable { op, reason },
            Failure::Damaged(what) => match key {
                Some(key) => ColdError::Corrupt {
                    key: key.clone(),
                    what,
                },
                None => ColdError::Unavailable { op, reason: what },
            },
            Failure::Refused(answer) => refused(&answer, op, key),
        }
    }
}

fn refused(answer: &Answer, op: &'static str, key: Option<&ColdKey>) -> ColdError {
    let reason = answer.words();
    if answer.is_throttle() {
        return ColdError::Throttled { op };
    }
    match (answer.status, answer.code.as_str(), key) {
        (_, "NoSuchBucket", _) => ColdError::Misconfigured {
            what: format!("the bucket does not exist; create it or change `cold` ({reason})"),
        },
        (404, _, Some(key)) => ColdError::NotFound { key: key.clone() },
        (412, _, Some(key)) => ColdError::Conflict { key: key.clone() },
        (416, _, Some(key)) => ColdError::Corrupt {
            key: key.clone(),
            what: "it ends before the bytes that were asked for".to_owned(),
        },
        (_, "RequestTimeTooSkewed", _) => ColdError::Misconfigured {
            what: format!("this machine's clock is wrong ({reason})"),
        },
        (301 | 307 | 308, ..) | (_, "AuthorizationHeaderMalformed", _) => {
            ColdError::Misconfigured {
                what: format!("the bucket is in another region; set `s3_region` ({reason})"),
            }
        }
        (401 | 403, ..) => ColdError::Denied { op, reason },
        (500.., ..) => ColdError::Unavailable { op, reason },
        (400..=499, ..) => ColdError::Misconfigured {
            what: format!("{op}: {reason}"),
        },
        _ => ColdError::Unavailable { op, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_decides_what_is_done() {
        let key = ColdKey::new("k").unwrap();
        let table = [
            (503, "SlowDown", true, "asks to slow down"),
            (500, "InternalError", true, "unavailable"),
            (503, "", true, "status 503"),
            (400, "BadDigest", true, "BadDigest"),
            (400, "ExpiredToken", true, "ExpiredToken"),
            (404, "NoSuchKey", false, "k is not in"),
            (404, "", false, "k is not in"),
            (404, "NoSuchBucket", false, "create it"),
            (403, "AccessDenied", false, "denies put"),
            (403, "RequestTimeTooSkewed", false, "clock"),
            (301, "PermanentRedirect", false, "s3_region"),
            (412, "PreconditionFailed", false, "other content"),
            (416, "InvalidRange", false, "ends before"),
        ];
        for (status, code, again, words) in table {
            let body = format!("<?xml?><Error><Code>{code}</Code><Message>m</Message></Error>");
            let failure = Failure::Refused(Answer::read(status, body.as_bytes()));
            assert_eq!(failure.is_worth_another(), again, "{status} {code}");
            let text = failure.into_error("put", Some(&key)).to_string();
            assert!(text.contains(words), "{status} {code}: {text}");
        }
    }
}
