//! Settings: each once, in [`settings`]; a flag beats the environment, which beats the file, which beats the
//! default.

mod cold;
mod machine;
mod settings;
mod show;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

pub use cold::{ColdPlace, Secret};
pub use machine::allowed_cpus;
pub use settings::{
    ADMIN_LISTEN, AdminListen, BackupListArguments, BackupVerifyArguments, CheckArguments, Config,
    Given, Peer, RestoreArguments, SETTINGS, ServerArguments, Setting,
};

/// A setting that cannot be used; names key, value, source and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or is not TOML.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// No setting has this name.
    #[error("{source_name}: unknown setting `{key}`{}", did_you_mean(.suggestion.as_deref()))]
    Unknown {
        /// The name.
        key: String,
        /// Where it stands.
        source_name: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// The value is not allowed.
    #[error("{source_name}: `{key}` is {value:?}; allowed: {allowed}")]
    Bad {
        /// The setting.
        key: String,
        /// The value.
        value: String,
        /// Where it stands.
        source_name: String,
        /// What is allowed.
        allowed: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |s| format!("; did you mean `{s}`?"))
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The text of the value.
    pub text: String,
    /// `flag --x`, `environment X`, a file, or `default`.
    pub source: String,
}

/// Where the given settings come from.
pub type Origins = BTreeMap<&'static str, Origin>;

/// Gathers the settings from all sources.
///
/// # Errors
/// [`ConfigError`].
pub fn load(
    flags: &BTreeMap<String, String>,
    environment: impl Iterator<Item = (String, String)>,
    file: Option<&Path>,
) -> Result<(Config, BTreeMap<&'static str, Origin>), ConfigError> {
    let mut origins: BTreeMap<&'static str, Origin> = BTreeMap::new();
    if let Some(file) = file {
        for (key, text) in read_file(file)? {
            put(&mut origins, &key, text, file.display().to_string())?;
        }
    }
    for (name, text) in environment {
        let Some(key) = name.strip_prefix("URSULA_") else {
            continue;
        };
        if matches!(key, "CONFIG" | "BIN") || key.starts_with("TEST_") {
            continue;
        }
        put(
            &mut origins,
            &key.to_lowercase(),
            text,
            format!("environment {name}"),
        )?;
    }
    for (key, text) in flags {
        put(
            &mut origins,
            key,
            text.clone(),
            format!("flag --{}", key.replace('_', "-")),
        )?;
    }
    settle_wal_dir(&mut origins)?;
    let config = Config::from_origins(&origins)?;
    if config.body_bytes_max > config.body_bytes_in_flight_max {
        let source = |key: &str| origins.get(key).map_or("default", |o| &*o.source);
        return Err(ConfigError::Contradiction(format!(
            "`body_bytes_max` is {} ({}), but `body_bytes_in_flight_max` only {} ({}): \
             the largest bodies would always be refused",
            config.body_bytes_max,
            source("body_bytes_max"),
            config.body_bytes_in_flight_max,
            source("body_bytes_in_flight_max"),
        )));
    }
    check_cluster(&config)?;
    if config.cold.is_some() && config.wal_dir.is_none() {
        // Its objects would be left behind by every end of the process, and nobody would know of them.
        return Err(ConfigError::Contradiction(
            "`cold` is set, but `wal_dir` is not: a node that keeps nothing has no old data"
                .to_owned(),
        ));
    }
    check_backup(&config)?;
    let cache_min = storage::cache::BYTES_MIN * config.core_count;
    if config.cache_dir.is_some() && config.cache_bytes < cache_min {
        return Err(ConfigError::Contradiction(format!(
            "`cache_bytes` is {}, but {} cores need {cache_min} at least",
            config.cache_bytes, config.core_count
        )));
    }
    Ok((config, origins))
}

/// Looks at the files that settings name and that only this machine can be blamed for.
///
/// # Errors
/// [`ConfigError::Bad`]. `check` says what is wrong with a file of certificate authorities.
pub fn check_files(
    config: &Config,
    origins: &Origins,
    check: impl Fn(&Path) -> Result<(), String>,
) -> Result<(), ConfigError> {
    let Some(path) = &config.s3_ca_file else {
        return Ok(());
    };
    check(path).map_err(|reason| {
        let source = origins.get("s3_ca_file").map_or("default", |o| &*o.source);
        ConfigError::Contradiction(format!("{source}: {reason}"))
    })
}

/// A time as settings say it, in milliseconds; `None`: it is none.
pub fn millis_of(text: &str) -> Option<u64> {
    value::millis(text)
}

/// Where a cold store is, as `cold` says it; `None`: not so.
pub fn place_of(text: &str) -> Option<ColdPlace> {
    cold::cold(text).flatten()
}

/// A backup that is lost with the nodes is none.
fn check_backup(config: &Config) -> Result<(), ConfigError> {
    let wrong = |text: &str| Err(ConfigError::Contradiction(text.to_owned()));
    match (&config.cold, config.peers.is_empty()) {
        _ if !config.dr => Ok(()),
        (None, _) => wrong(
            "`dr` is set, but `cold` is not: say where the backup goes, such as s3://bucket/prefix",
        ),
        (Some(ColdPlace::Dir(_)), false) => wrong(
            "`dr` and `peers` are set, and `cold` is a directory, which the nodes do not share: set `cold` to s3://bucket/prefix",
        ),
        _ => Ok(()),
    }
}

/// A body and what goes with it, in one message of the peers' link.
const CLUSTER_BODY_BYTES_MAX: u64 = 60 << 20;

/// What a node of a cluster needs.
fn check_cluster(config: &Config) -> Result<(), ConfigError> {
    let wrong = |text: String| Err(ConfigError::Contradiction(text));
    if config.peers.is_empty() {
        return match config.join {
            true => wrong("`join` is set, but `peers` names nobody to ask".to_owned()),
            false => Ok(()),
        };
    }
    let id = config.node_id;
    if !config.peers.iter().any(|p| p.id == id) {
        return wrong(format!(
            "`node_id` is {id}, but `peers` does not name it: each node's `peers` names all, itself included"
        ));
    }
    if config.cluster_listen.is_none() {
        return wrong(
            "`peers` is set, but `cluster_listen` is not: the other nodes must be able to connect"
                .to_owned(),
        );
    }
    if config.wal_dir.is_none() {
        // One that forgot its log would vote again in a term in which it has voted (Raft, section 5.2).
        return wrong(
            "`peers` is set, but `wal_dir` is not: a node of a cluster must keep its log"
                .to_owned(),
        );
    }
    if config.body_bytes_max > CLUSTER_BODY_BYTES_MAX {
        return wrong(format!(
            "`peers` is set and `body_bytes_max` is {}: what is longer than {CLUSTER_BODY_BYTES_MAX} bytes fits into no message \
             between nodes, and an append that no other node gets would hold up all after it",
            config.body_bytes_max
        ));
    }
    Ok(())
}

/// The setting that has two names, and its other one.
const WAL_DIR: &str = "wal_dir";
const RAFT_LOG_DIR: &str = "raft_log_dir";

/// Joins both names of the data directory. An empty one is no "none": a variable that is not set where a script
/// runs must not make a server that keeps nothing.
fn settle_wal_dir(origins: &mut BTreeMap<&'static str, Origin>) -> Result<(), ConfigError> {
    if let Some(other) = origins.remove(RAFT_LOG_DIR) {
        let own = origins.entry(WAL_DIR).or_insert_with(|| other.clone());
        if own.text != other.text {
            return Err(ConfigError::Contradiction(format!(
                "`{WAL_DIR}` and `{RAFT_LOG_DIR}` are one setting, but {} gives {:?} and {} gives {:?}",
                own.source, own.text, other.source, other.text
            )));
        }
    }
    match origins.get(WAL_DIR) {
        Some(origin) if origin.text.trim().is_empty() => Err(ConfigError::Bad {
            key: WAL_DIR.to_owned(),
            value: origin.text.clone(),
            source_name: origin.source.clone(),
            allowed: "a directory; leave it out to keep nothing".to_owned(),
        }),
        _ => Ok(()),
    }
}

fn put(
    origins: &mut BTreeMap<&'static str, Origin>,
    key: &str,
    text: String,
    source: String,
) -> Result<(), ConfigError> {
    let known = SETTINGS.iter().map(|s| s.key).chain([RAFT_LOG_DIR]);
    let Some(known) = known.into_iter().find(|k| *k == key) else {
        return Err(ConfigError::Unknown {
            key: key.to_owned(),
            source_name: source,
            suggestion: nearest(key),
        });
    };
    origins.insert(known, Origin { text, source });
    Ok(())
}

/// The setting whose name is nearest to a wrong one, if any is near.
pub(crate) fn nearest(key: &str) -> Option<String> {
    let distance = |name: &str| {
        let (a, b) = (key.as_bytes(), name.as_bytes());
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.iter().enumerate() {
            let mut diagonal = row[0];
            row[0] = i + 1;
            for (j, y) in b.iter().enumerate() {
                let substitute = diagonal + usize::from(x != y);
                diagonal = row[j + 1];
                row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
            }
        }
        row[b.len()]
    };
    let best = SETTINGS.iter().map(|s| (distance(s.key), s.key)).min()?;
    (1..=3).contains(&best.0).then(|| best.1.to_owned())
}

fn read_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let failed = |reason: String| ConfigError::File {
        file: path.display().to_string(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| failed(e.to_string()))?;
    table
        .into_iter()
        .map(|(key, value)| match value {
            toml::Value::String(text) => Ok((key, text)),
            toml::Value::Integer(number) => Ok((key, number.to_string())),
            toml::Value::Boolean(flag) => Ok((key, flag.to_string())),
            other => Err(failed(format!(
                "`{key}` must be a string, a number or a boolean, not {}",
                other.type_str()
            ))),
        })
        .collect()
}

/// The effective settings as a TOML file, each with where it comes from.
pub fn describe(config: &Config, origins: &BTreeMap<&'static str, Origin>) -> String {
    let mut out = String::new();
    for (setting, value) in SETTINGS.iter().zip(config.values()) {
        let source = origins
            .get(setting.key)
            .map_or("default", |o| o.source.as_str());
        match value {
            Some(value) => out.push_str(&format!("{} = {value}  # {source}\n", setting.key)),
            None => out.push_str(&format!("# {} is not set\n", setting.key)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        let owned: Vec<_> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        owned.into_iter()
    }

    #[test]
    fn what_fits_into_no_message_between_nodes_is_refused_at_the_start() {
        let check = |body_bytes_max| {
            let given = [
                ("peers", "1=127.0.0.1:1"),
                ("cluster_listen", "127.0.0.1:1"),
                ("wal_dir", "/a"),
                ("body_bytes_max", body_bytes_max),
                ("body_bytes_in_flight_max", "1GiB"),
            ];
            load(&flags(&given), environment(&[]), None)
        };
        assert!(check("60MiB").is_ok());
        let text = check("61MiB").unwrap_err().to_string();
        assert!(text.contains("`body_bytes_max` is 63963136"), "{text}");
        let message_bytes_max = crate::peer::PeerSettings::default().message_bytes_max;
        assert!(message_bytes_max as u64 >= CLUSTER_BODY_BYTES_MAX + (1 << 20));
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("u.toml");
        std::fs::write(
            &file,
            "raft_group_count = 3\ncore_count = 1\nbody_bytes_max = \"1MiB\"\n",
        )
        .unwrap();
        let environment = environment(&[
            ("URSULA_RAFT_GROUP_COUNT", "4"),
            ("URSULA_LONG_POLL_MS", "5s"),
            ("HOME", "/"),
        ]);
        let (config, origins) = load(
            &flags(&[("raft_group_count", "5")]),
            environment,
            Some(&file),
        )
        .unwrap();
        assert_eq!((config.raft_group_count, config.core_count), (5, 1));
        assert_eq!(
            (config.body_bytes_max, config.long_poll_ms),
            (1 << 20, 5000)
        );
        assert_eq!(config.listen.to_string(), "127.0.0.1:4437");
        assert!(
            describe(&config, &origins).contains("raft_group_count = 5  # flag --raft-group-count")
        );
    }

    #[test]
    fn errors_name_key_value_source_and_range() {
        let fails = |pairs: &[(&str, &str)]| {
            load(&flags(pairs), std::iter::empty(), None)
                .unwrap_err()
                .to_string()
        };
        let text = fails(&[("raft_group_count", "0")]);
        assert_eq!(
            text,
            "flag --raft-group-count: `raft_group_count` is \"0\"; allowed: a whole number from 1 to 4096"
        );
        assert!(fails(&[("raft_group_cuont", "1")]).contains("did you mean `raft_group_count`?"));
        assert!(fails(&[("body_bytes_max", "12 parsecs")]).contains("allowed: bytes"));
        let both = environment(&[("URSULA_NOPE", "1")]);
        assert!(
            load(&flags(&[]), both, None)
                .unwrap_err()
                .to_string()
                .contains("environment URSULA_NOPE")
        );
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("u.toml");
        std::fs::write(&file, "raft_log_dir = \"/b\"\n").unwrap();
        let fails = |pairs: &[(&str, &str)], variables: &[(&str, &str)], file: Option<&Path>| {
            load(&flags(pairs), environment(variables), file)
                .unwrap_err()
                .to_string()
        };
        let both = [("wal_dir", "/a"), ("raft_log_dir", "/b")];
        assert!(fails(&both, &[], None).contains("flag --raft-log-dir gives \"/b\""));
        assert!(fails(&both[..1], &[("URSULA_RAFT_LOG_DIR", "/b")], None).contains("environment"));
        assert!(fails(&both[..1], &[], Some(&file)).contains("u.toml"));
        let (config, _) = load(&flags(&both[1..]), std::iter::empty(), Some(&file)).unwrap();
        assert_eq!(config.wal_dir.unwrap().to_str(), Some("/b"));
        for key in ["wal_dir", "raft_log_dir"] {
            assert!(
                fails(&[(key, "")], &[], None).contains("a directory"),
                "{key}"
            );
        }
        assert!(fails(&[("cold", "/c")], &[], None).contains("`wal_dir` is not"));
        let small = [("body_bytes_in_flight_max", "100KiB")];
        let text = fails(&small, &[], None);
        assert!(text.contains("33554432 (default)") && text.contains("--body-bytes-in-flight-max"));
        let fitting = [small[0], ("body_bytes_max", "100KiB")];
        assert!(load(&flags(&fitting), std::iter::empty(), None).is_ok());
    }

    #[test]
    fn where_the_cold_store_is_and_what_nobody_is_shown() {
        let place = |text: &str| {
            let given = flags(&[("cold", text), ("wal_dir", "/w")]);
            load(&given, environment(&[]), None).map(|(config, _)| config.cold_place())
        };
        let s3 = |bucket: &str, prefix: &str| ColdPlace::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        let table = [
            ("", ColdPlace::Dir("/w/cold".into())),
            ("/c", ColdPlace::Dir("/c".into())),
            ("s3://abc", s3("abc", "")),
            ("s3://abc/", s3("abc", "")),
            ("s3://a-b.c/d/e/", s3("a-b.c", "d/e")),
        ];
        for (text, expected) in table {
            assert_eq!(place(text).unwrap(), Some(expected), "{text}");
        }
        for bad in [
            "s3://",
            "s3://ab",
            "s3://ABC/x",
            "s3://abc//x",
            "s3://abc/ä",
            "gs://abc",
        ] {
            let error = place(bad).unwrap_err().to_string();
            assert!(error.contains("s3://bucket/prefix"), "{bad}: {error}");
        }
        let secret = [
            ("URSULA_S3_SECRET_ACCESS_KEY", "hush"),
            ("URSULA_S3_SESSION_TOKEN", "hush"),
        ];
        let (config, origins) = load(&flags(&[]), environment(&secret), None).unwrap();
        assert_eq!(config.s3_secret_access_key.0, "hush");
        let shown = format!("{}{config:?}", describe(&config, &origins));
        assert!(shown.contains("s3_session_token = \"***\"") && !shown.contains("hush"));
        for bad in ["host", "ftp://host", "http://", "http://a/b", "http://u@h"] {
            assert!(
                load(&flags(&[("s3_endpoint", bad)]), environment(&[]), None).is_err(),
                "{bad}"
            );
        }
    }
}
