//! `ursula doctor`.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;

use super::CliError;
use super::client::{Client, Target};
use super::output;
use crate::config;
use crate::doctor::{self, Scope};

/// Checks whether this machine is fit for a node: kernel, limits, clock, data directory, network, and asks
/// the cold store on S3 once. Changes nothing.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "doctor")]
pub struct Doctor {
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// measure the disk, too: five seconds of small writes with a sync each
    #[argh(switch)]
    pub disk: bool,
    /// the node's TOML file; also URSULA_CONFIG in the environment
    #[argh(option)]
    pub config: Option<PathBuf>,
    /// the data directory, where no file says it
    #[argh(option)]
    pub wal_dir: Option<String>,
    /// let a running node check itself, as HOST:PORT of its admin listener: its limits are those that its unit gives it
    #[argh(option)]
    pub at: Option<String>,
}

/// What was found; its fields are those of [`doctor::as_json`].
pub(super) async fn run(given: &Doctor) -> Result<serde_json::Value, CliError> {
    let Some(at) = &given.at else {
        return here(given).await;
    };
    let mut client = Client::connect(Target::parse(&format!("{at}/_/api/doctor"))?).await?;
    let query = if given.disk { "?disk" } else { "" };
    let answer = client.send(Method::GET, query, &[], Bytes::new()).await?;
    let body = answer.into_body().collect().await;
    let body = body.map_err(|e| CliError::Unavailable(e.to_string()))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|e| CliError::Malformed(e.to_string()))
}

async fn here(given: &Doctor) -> Result<serde_json::Value, CliError> {
    let flags = given
        .wal_dir
        .iter()
        .map(|dir| ("wal_dir".to_owned(), dir.clone()));
    let file = given.config.clone();
    let file = file.or_else(|| std::env::var_os("URSULA_CONFIG").map(Into::into));
    let usage = |error: config::ConfigError| CliError::Usage(error.to_string());
    let loaded = config::load(&flags.collect(), std::env::vars(), file.as_deref());
    let (config, origins) = loaded.map_err(usage)?;
    config::check_files(&config, &origins, crate::core::tls::check_authorities).map_err(usage)?;
    if given.disk && config.wal_dir.is_none() {
        return Err(CliError::Usage(
            "--disk measures the disk of the data directory: say which by --wal-dir, or by a --config that has wal_dir".to_owned(),
        ));
    }
    let scope = Scope {
        disk_probe: given.disk,
        is_the_node: false,
    };
    Ok(doctor::as_json(&doctor::check_all(&config, scope).await))
}

/// Prints a report.
///
/// # Errors
/// [`CliError::Unfit`] if something is fatal.
pub(super) fn print(given: &Doctor, report: &serde_json::Value) -> Result<(), CliError> {
    match given.json {
        true => output::print(format_args!("{report}\n")),
        false => output::print(format_args!("{}", doctor::as_text(report))),
    }
    match report["fatal"].as_u64() {
        Some(0) => Ok(()),
        _ => Err(CliError::Unfit),
    }
}
