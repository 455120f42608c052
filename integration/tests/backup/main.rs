//! Disaster recovery: all nodes are killed, all their disks wiped, and a new cluster is built from the cold store alone.

mod damage;
mod histories;
mod load;
mod outage;
mod restore;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use integration::cluster::Cluster;
use integration::s3::{BUCKET, KEY_ID, SECRET};
use integration::{Client, Server, metric};

/// Longest wait for what a server does by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Flags, in pairs.
pub type Flags = Vec<(String, String)>;

/// Where a backup is: the flags that name it, and where `--from` is to point.
#[derive(Clone)]
pub struct Place {
    pub flags: Flags,
    pub from: String,
}

impl Place {
    /// A bucket behind this address.
    pub fn s3(address: &str) -> Place {
        let from = format!("s3://{BUCKET}/backup");
        let endpoint = format!("http://{address}");
        let flags = [
            ("--s3-endpoint", endpoint.as_str()),
            ("--s3-access-key-id", KEY_ID),
            ("--s3-secret-access-key", SECRET),
            ("--s3-attempts-max", "2"),
            ("--s3-request-timeout-ms", "2s"),
        ];
        Place {
            flags: pairs(&flags),
            from,
        }
    }

    /// A directory.
    pub fn dir(dir: &Path) -> Place {
        Place {
            flags: Vec::new(),
            from: dir.to_str().unwrap().to_owned(),
        }
    }

    /// What a node needs that ships to here, and whose data becomes old soon.
    pub fn node(&self) -> Flags {
        let mut flags = pairs(&[
            ("--cold", &self.from),
            ("--dr", ""),
            ("--dr-interval-ms", "200ms"),
            ("--wal-segment-bytes", "1MiB"),
            ("--checkpoint-bytes", "128KiB"),
            ("--cold-pack-bytes", "32KiB"),
            ("--cold-flush-age-ms", "300ms"),
            ("--cold-grace-ms", "1s"),
        ]);
        flags.extend(self.flags.clone());
        flags
    }
}

pub fn pairs(flags: &[(&str, &str)]) -> Flags {
    flags
        .iter()
        .map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned()))
        .collect()
}

/// With these in the place of those of the same names.
pub fn with(mut flags: Flags, others: &[(&str, &str)]) -> Flags {
    flags.retain(|(flag, _)| others.iter().all(|(other, _)| other != flag));
    flags.extend(pairs(others));
    flags
}

pub fn words(flags: &Flags) -> Vec<&str> {
    let words = flags.iter().flat_map(|(flag, value)| [flag, value]);
    // A switch has no value.
    words
        .map(String::as_str)
        .filter(|word| !word.is_empty())
        .collect()
}

/// Runs a command of ours.
pub fn ursula(command: &[&str], flags: &Flags) -> Output {
    let mut run = Command::new(Server::binary());
    run.args(command).args(words(flags));
    run.output().unwrap()
}

pub fn said(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{}: {out}{err}", output.status)
}

/// Waits until nothing would be lost.
pub fn until_shipped(mut client: Client) {
    let deadline = Instant::now() + PATIENCE;
    while metric(&mut client, "ursula_dr_lag_seconds") > 0
        || metric(&mut client, "ursula_dr_groups_without_base") > 0
        || metric(&mut client, "ursula_dr_objects_total") == 0
            && metric(&mut client, "ursula_groups_led") > 0
    {
        assert!(Instant::now() < deadline, "the backup stays behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn until_all_shipped(cluster: &Cluster) {
    for node in cluster.running() {
        until_shipped(cluster.client(node));
    }
}

/// Restores a node's data directory, and says so if that fails.
pub fn restore(place: &Place, flags: Flags) -> String {
    let mut flags = flags;
    flags.push(("--from".to_owned(), place.from.clone()));
    let output = ursula(&["restore"], &flags);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    text
}

/// Checks a backup, which must be whole.
pub fn verify(place: &Place) {
    let mut flags = place.flags.clone();
    flags.push(("--from".to_owned(), place.from.clone()));
    let output = ursula(&["backup", "verify"], &flags);
    assert!(output.status.success(), "{}", said(&output));
}
