//! The cold store: asked for one key, as the node would ask.

use std::rc::Rc;
use std::time::Duration;

use super::{Finding, Findings, Severity};
use crate::config::{ColdPlace, Config};
use crate::core::cold::open_cold;

/// How long the store is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// On an executor. `None`: there is no store that could be asked.
pub(super) async fn check(config: &Config) -> Option<Finding> {
    if !matches!(config.cold_place()?, ColdPlace::S3 { .. }) {
        return None;
    }
    let mut config = config.clone();
    config.s3_attempts_max = 1;
    let store = open_cold(0, &config, Rc::default())?;
    let asked = async { store.list("", None, 1).await.map_err(|e| e.to_string()) };
    let late = async {
        glommio::timer::sleep(PATIENCE).await;
        Err(format!("no answer within {} s", PATIENCE.as_secs()))
    };
    let answer = futures_lite::FutureExt::or(asked, late).await;
    let mut findings = Findings(Vec::new());
    findings.expect(
        "cold.store",
        answer.is_ok(),
        // The node starts without it, and serves what it has.
        Severity::Warn,
        (
            answer.err().unwrap_or_else(|| "answers".to_owned()),
            "lists a key with these settings",
        ),
        "mend what it says: `cold`, the `s3_` settings, the credentials, the line to the store",
    );
    findings.0.pop()
}
