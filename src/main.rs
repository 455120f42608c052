//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use ursula::config::{self, Config, Origin, SETTINGS};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["server", rest @ ..] => with_config(rest, serve),
        ["config", "check", rest @ ..] => with_config(rest, |config, origins| {
            print!("{}", config::describe(&config, &origins));
            ExitCode::SUCCESS
        }),
        ["version" | "--version" | "-V"] => {
            println!("ursula {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["help" | "--help" | "-h"] => {
            print!("{}", help());
            ExitCode::SUCCESS
        }
        [command, rest @ ..] if ursula::cli::is_command(command) => ursula::cli::run(command, rest),
        _ => {
            eprint!("{}", help());
            ExitCode::from(2)
        }
    }
}

fn serve(config: Config, _: BTreeMap<&'static str, Origin>) -> ExitCode {
    let level = config.log_level.parse().unwrap_or(log::LevelFilter::Info);
    ursula::ops::logging::start(level, config.log_format == "json");
    let result = ursula::node::run(config);
    if let Err(error) = &result {
        log::error!("event=failed {error}");
    }
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ursula::node::NodeError::Config(_)) => ExitCode::from(2),
        Err(_) => ExitCode::FAILURE,
    }
}

fn with_config(
    arguments: &[&str],
    then: impl FnOnce(Config, BTreeMap<&'static str, Origin>) -> ExitCode,
) -> ExitCode {
    match read_flags(arguments) {
        Err(Flags::Help) => {
            print!("{}", help());
            ExitCode::SUCCESS
        }
        Err(Flags::Wrong(text)) => {
            eprintln!("ursula: {text}\nSee `ursula --help`.");
            ExitCode::from(2)
        }
        Ok((flags, file)) => match config::load(&flags, std::env::vars(), file.as_deref()) {
            Ok((config, origins)) => then(config, origins),
            Err(error) => {
                eprintln!("ursula: {error}");
                ExitCode::from(2)
            }
        },
    }
}

enum Flags {
    Help,
    Wrong(String),
}

type Given = (BTreeMap<String, String>, Option<PathBuf>);

/// Reads `--name value`, `--name=value` and switches.
fn read_flags(arguments: &[&str]) -> Result<Given, Flags> {
    let mut flags = BTreeMap::new();
    let mut file = std::env::var_os("URSULA_CONFIG").map(PathBuf::from);
    let mut rest = arguments.iter().copied();
    while let Some(argument) = rest.next() {
        if matches!(argument, "--help" | "-h") {
            return Err(Flags::Help);
        }
        let Some(name) = argument.strip_prefix("--") else {
            return Err(Flags::Wrong(format!("`{argument}` is not a flag")));
        };
        let (name, inline) = name
            .split_once('=')
            .map_or((name, None), |(n, v)| (n, Some(v)));
        let key = name.replace('-', "_");
        let is_switch = SETTINGS.iter().any(|s| s.key == key && s.is_switch);
        let value = match inline {
            Some(value) => value.to_owned(),
            None if is_switch => "true".to_owned(),
            None => match rest.next() {
                Some(value) => value.to_owned(),
                None => return Err(Flags::Wrong(format!("--{name} needs a value"))),
            },
        };
        if key == "config" {
            file = Some(PathBuf::from(value));
        } else if let Some(before) = flags.get(wal_alias(&key))
            && *before != value
        {
            return Err(Flags::Wrong(format!(
                "--{name} is given twice, as {before:?} and as {value:?}"
            )));
        } else {
            flags.insert(wal_alias(&key).to_owned(), value);
        }
    }
    Ok((flags, file))
}

fn wal_alias(key: &str) -> &str {
    if key == "raft_log_dir" {
        "wal_dir"
    } else {
        key
    }
}

fn help() -> String {
    let mut text = String::from(
        "Durable, replayable event streams over plain HTTP.\n\n\
         Examples:\n  ursula server --wal-dir /var/lib/ursula\n  \
         ursula create /v1/stream/hello --content-type text/plain\n  \
         echo hi | ursula append /v1/stream/hello\n  \
         ursula tail /v1/stream/hello --offset -1\n\n\
         Commands:\n  server        run a node\n  config check  show the effective settings and where each comes from\n",
    );
    text.push_str(ursula::cli::HELP);
    text.push_str("  version       print the version\n\nSettings of `server` and `config check`");
    text.push_str(" (also in --config FILE as TOML, and as URSULA_NAME in the environment):\n");
    for setting in SETTINGS {
        let flag = format!("--{}", setting.key.replace('_', "-"));
        let default = if setting.default.is_empty() {
            "none"
        } else {
            setting.default
        };
        text.push_str(&format!(
            "  {flag:<32} {} [{default}; {}]\n",
            setting.help, setting.allowed
        ));
    }
    text
}
