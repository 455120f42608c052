//! Settings: each once, in [`settings`]; a flag beats the environment, which beats the file, which beats the
//! default.

mod settings;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

pub use settings::{
    CheckArguments, Config, Given, SETTINGS, ServerArguments, Setting, allowed_cpus,
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
    let config = Config::from_origins(&origins)?;
    Ok((config, origins))
}

fn put(
    origins: &mut BTreeMap<&'static str, Origin>,
    key: &str,
    text: String,
    source: String,
) -> Result<(), ConfigError> {
    let key = if key == "raft_log_dir" {
        "wal_dir"
    } else {
        key
    };
    let Some(setting) = SETTINGS.iter().find(|s| s.key == key) else {
        return Err(ConfigError::Unknown {
            key: key.to_owned(),
            source_name: source,
            suggestion: nearest(key),
        });
    };
    if let Some(before) = origins.get(setting.key)
        && before.source == source
        && before.text != text
    {
        return Err(ConfigError::Contradiction(format!(
            "{source}: `{key}` is given twice, as {:?} and as {text:?}",
            before.text
        )));
    }
    origins.insert(setting.key, Origin { text, source });
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
}
