//! The command line, as argh reads it.

use argh::{ArgsInfo, EarlyExit, FromArgs};

pub use super::cluster_arguments::{ClusterCommand, ClusterSubcommand};
pub use super::completions::Completions;
pub use super::doctor::Doctor;
use super::help;
pub use super::manual::Man;
use super::manual::{Told, commands};
use crate::config::{
    BackupListArguments, BackupVerifyArguments, CheckArguments, RestoreArguments, SETTINGS,
    ServerArguments,
};

/// Durable, replayable event streams over plain HTTP.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    example = "{command_name} server --wal-dir /var/lib/ursula",
    example = "{command_name} create /v1/stream/hello --content-type text/plain",
    example = "echo hi | {command_name} append /v1/stream/hello",
    example = "{command_name} tail /v1/stream/hello --offset -1",
    note = "A URL is http://host:port/path, or a path on http://127.0.0.1:4437. A setting of the server is a flag, \
            a key of the file (wal_dir) or an environment variable (URSULA_WAL_DIR); a flag beats the environment, \
            which beats the file.",
    error_code(1, "Failed."),
    error_code(2, "The command line or a setting is wrong."),
    error_code(3, "Not found."),
    error_code(4, "In conflict with the stream's state."),
    error_code(5, "Unavailable."),
    error_code(
        65,
        "The data directory is damaged or foreign. Not mended by a restart."
    ),
    error_code(74, "A write or sync of the log failed. Not mended by a restart."),
    error_code(78, "The settings do not fit this machine or data directory.")
)]
pub struct Arguments {
    #[argh(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub enum Command {
    Server(ServerArguments),
    Config(ConfigCommand),
    Create(Create),
    Append(Append),
    Read(Read),
    Tail(Tail),
    Head(Head),
    Close(Close),
    Delete(Delete),
    Cluster(ClusterCommand),
    Backup(BackupCommand),
    Restore(RestoreArguments),
    Scrub(Scrub),
    Doctor(Doctor),
    Man(Man),
    Completions(Completions),
    Version(Version),
}

/// Works on the settings.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "config")]
pub struct ConfigCommand {
    #[argh(subcommand)]
    pub command: ConfigSubcommand,
}

/// What to do with the settings.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub enum ConfigSubcommand {
    Check(CheckArguments),
}

/// Looks at what --dr has shipped.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "backup")]
pub struct BackupCommand {
    #[argh(subcommand)]
    pub command: BackupSubcommand,
}

/// What to do with the backup.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub enum BackupSubcommand {
    List(BackupListArguments),
    Verify(BackupVerifyArguments),
}

/// Creates a stream; nothing changes if it is there already as described.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "create")]
pub struct Create {
    /// the stream
    #[argh(positional)]
    pub url: String,
    /// media type of what is appended
    #[argh(option)]
    pub content_type: Option<String>,
    /// seconds after the last use at which the stream ends
    #[argh(option)]
    pub ttl: Option<String>,
    /// time at which the stream ends, such as 2027-01-01T00:00:00Z
    #[argh(option)]
    pub expires_at: Option<String>,
    /// seconds for which its bytes are kept, or none
    #[argh(option)]
    pub max_age: Option<String>,
    /// bytes that it keeps, the newest ones, or none
    #[argh(option)]
    pub max_bytes: Option<String>,
    /// create it closed
    #[argh(switch)]
    pub closed: bool,
    /// path of the stream whose bytes it begins with
    #[argh(option)]
    pub fork_from: Option<String>,
    /// offset in that stream at which it parts
    #[argh(option)]
    pub fork_offset: Option<String>,
}

/// Appends standard input, or --data.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "append")]
pub struct Append {
    /// the stream
    #[argh(positional)]
    pub url: String,
    /// what to append, instead of standard input
    #[argh(option)]
    pub data: Option<String>,
    /// media type; the stream's own if not given
    #[argh(option)]
    pub content_type: Option<String>,
    /// close the stream with this append
    #[argh(switch)]
    pub close: bool,
    /// a text that must sort after that of the append before (Stream-Seq)
    #[argh(option)]
    pub seq: Option<String>,
    /// name of an idempotent producer
    #[argh(option)]
    pub producer_id: Option<String>,
    /// the producer's epoch
    #[argh(option)]
    pub producer_epoch: Option<String>,
    /// the producer's sequence number
    #[argh(option)]
    pub producer_seq: Option<String>,
}

/// Prints what is there, then ends.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "read")]
pub struct Read {
    /// the stream
    #[argh(positional)]
    pub url: String,
    /// where to begin: an offset, -1 for the start, now for the end
    #[argh(option, default = "String::from(\"-1\")")]
    pub offset: String,
    /// print lines of JSON, each with the offset after it; what is no text is base64, which a field says
    #[argh(switch)]
    pub json: bool,
}

/// Follows until the stream is closed.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "tail")]
pub struct Tail {
    /// the stream
    #[argh(positional)]
    pub url: String,
    /// where to begin: an offset, -1 for the start, now for the end
    #[argh(option, default = "String::from(\"now\")")]
    pub offset: String,
    /// print lines of JSON, each with the offset after it; what is no text is base64, which a field says
    #[argh(switch)]
    pub json: bool,
}

/// Shows what is known of a stream.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "head")]
pub struct Head {
    /// the stream
    #[argh(positional)]
    pub url: String,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

/// Closes a stream: nothing can be appended after that.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "close")]
pub struct Close {
    /// the stream
    #[argh(positional)]
    pub url: String,
}

/// Deletes a stream.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "delete")]
pub struct Delete {
    /// the stream
    #[argh(positional)]
    pub url: String,
}

/// Reads and checks all that a stopped node has in its data directory: manifests, state tables, packs, the log. Names
/// what is damaged, and mends nothing. The cold store is not read.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "scrub")]
pub struct Scrub {
    /// the data directory
    #[argh(option)]
    pub wal_dir: std::path::PathBuf,
}

/// Prints the version.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version")]
pub struct Version {}

/// Reads the command line, without the program's name.
///
/// # Errors
/// The text to print; its status is success where help was asked for.
pub fn parse(arguments: &[String]) -> Result<Arguments, EarlyExit> {
    let words = spread(arguments);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Arguments::from_args(&["ursula"], &words).map_err(|mut early| {
        if early.status.is_ok()
            && let Some(told) = settings_command(&words)
        {
            early.output = help::of_settings(&told);
        }
        let unknown = words
            .iter()
            .find(|w| w.starts_with("--") && early.output.contains(**w));
        let key = unknown.map(|flag| flag.trim_start_matches('-').replace('-', "_"));
        if early.status.is_err()
            && is_setting_command(arguments)
            && let Some(near) = key.and_then(|key| crate::config::nearest(&key))
        {
            let flag = near.replace('_', "-");
            early.output = format!("{}; did you mean --{flag}?", early.output.trim_end());
        }
        early
    })
}

fn is_setting_command(arguments: &[String]) -> bool {
    let first = arguments.first().map(String::as_str);
    matches!(first, Some("server" | "config" | "backup" | "restore"))
}

/// The command that is named, if its flags are the settings.
fn settings_command(words: &[&str]) -> Option<Told> {
    let is_named = |told: &Told| !told.words.is_empty() && words.starts_with(&told.words);
    let named = commands().into_iter().filter(is_named);
    let told = named.max_by_key(|told| told.words.len())?;
    let has_settings = told
        .info
        .flags
        .iter()
        .any(|f| f.long.ends_with("raft-log-dir"));
    has_settings.then_some(told)
}

/// Writes `--name=value` as two words and gives switches among the settings their value, as argh wants it.
fn spread(arguments: &[String]) -> Vec<String> {
    let is_setting = is_setting_command(arguments);
    let mut words = Vec::new();
    for argument in arguments {
        let Some(flag) = argument.strip_prefix("--") else {
            words.push(argument.clone());
            continue;
        };
        if let Some((name, value)) = flag.split_once('=') {
            words.extend([format!("--{name}"), value.to_owned()]);
            continue;
        }
        words.push(argument.clone());
        let key = flag.replace('-', "_");
        if is_setting && SETTINGS.iter().any(|s| s.is_switch && s.key == key) {
            words.push("true".to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn settings_are_read_in_every_form() {
        let text = "server --core-count=2 --no-pin --raft-log-dir /x --config u.toml";
        let Command::Server(server) = parse(&words(text)).unwrap().command else {
            panic!("not a server");
        };
        let (given, file) = server.given();
        let given: Vec<(&str, &str)> = given.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            given,
            [
                ("core_count", "2"),
                ("no_pin", "true"),
                ("raft_log_dir", "/x")
            ]
        );
        assert_eq!(file.unwrap().to_str(), Some("u.toml"));
        for (text, value) in [
            ("server --no-pin", "true"),
            ("server --no-pin=true", "true"),
            ("server --no-pin=false", "false"),
        ] {
            let Command::Server(server) = parse(&words(text)).unwrap().command else {
                panic!("not a server");
            };
            assert_eq!(server.given().0["no_pin"], value, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("server --core-cuont 2", "--core-cuont"),
            ("server --core-count", "--core-count"),
            ("server --core-count 1 --core-count 2", "core-count"),
            ("frob", "frob"),
            ("read", "url"),
            ("read /a /b", "/b"),
        ] {
            let error = parse(&words(text)).unwrap_err();
            assert!(
                error.status.is_err() && error.output.contains(part),
                "{text}: {}",
                error.output
            );
        }
    }

    #[test]
    fn help_shows_every_setting_with_what_is_allowed() {
        let help = parse(&words("server --help")).unwrap_err();
        assert!(help.status.is_ok());
        let text = help.output.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in SETTINGS {
            let flag = format!("--{}", setting.key.replace('_', "-"));
            let is_told = setting.is_switch || text.contains(setting.allowed);
            assert!(text.contains(&flag) && is_told, "{flag}");
            let has_value = text.contains(&format!(" {flag} <value> "));
            assert_eq!(has_value, !setting.is_switch, "{flag}");
        }
    }
}
