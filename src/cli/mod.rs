//! The client commands. They need an address and no knowledge of the server.

mod client;
mod commands;

use std::collections::BTreeMap;
use std::process::ExitCode;

pub use commands::CliError;

/// Lines of the help.
pub const HELP: &str = "  \
  create URL    [--content-type T] [--ttl SECONDS] [--expires-at TIME] [--closed]
                [--fork-from PATH [--fork-offset O]]
  append URL    [--data TEXT | standard input] [--content-type T] [--close] [--seq S]
                [--producer-id ID --producer-epoch N --producer-seq N]
  read URL      [--offset O] [--json]        what is there, then end
  tail URL      [--offset now|-1|O] [--json] follow until the stream is closed
  head URL      [--json]
  close URL
  delete URL
                URL: http://host:port/path, or a path on http://127.0.0.1:4437
                exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable
";

const COMMANDS: [&str; 7] = [
    "create", "append", "read", "tail", "head", "close", "delete",
];

/// Flags that take no value.
const SWITCHES: [&str; 3] = ["json", "closed", "close"];

/// Flags that a command takes.
fn flags_of(command: &str) -> &'static [&'static str] {
    match command {
        "create" => &[
            "content-type",
            "ttl",
            "expires-at",
            "closed",
            "fork-from",
            "fork-offset",
        ],
        "append" => &[
            "data",
            "content-type",
            "close",
            "seq",
            "producer-id",
            "producer-epoch",
            "producer-seq",
        ],
        "read" | "tail" => &["offset", "json"],
        "head" => &["json"],
        _ => &[],
    }
}

/// Whether this is a client command.
pub fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
}

/// Runs a client command.
pub fn run(command: &str, arguments: &[&str]) -> ExitCode {
    let result =
        read(command, arguments).and_then(|(url, flags)| commands::run(command, &url, &flags));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ursula {command}: {error}");
            ExitCode::from(error.code())
        }
    }
}

type Flags = BTreeMap<String, String>;

fn read(command: &str, arguments: &[&str]) -> Result<(String, Flags), CliError> {
    let mut url = None;
    let mut flags = Flags::new();
    let mut rest = arguments.iter().copied();
    while let Some(argument) = rest.next() {
        let Some(name) = argument.strip_prefix("--") else {
            if url.replace(argument.to_owned()).is_some() {
                return Err(CliError::Usage(format!(
                    "one URL is taken, not also {argument:?}"
                )));
            }
            continue;
        };
        let (name, inline) = name
            .split_once('=')
            .map_or((name, None), |(n, v)| (n, Some(v)));
        if !flags_of(command).contains(&name) {
            let known = flags_of(command)
                .iter()
                .map(|f| format!("--{f}"))
                .collect::<Vec<_>>()
                .join(" ");
            return Err(CliError::Usage(format!(
                "--{name} is not a flag of it; these are: {known}"
            )));
        }
        let value = match inline {
            Some(value) => value.to_owned(),
            None if SWITCHES.contains(&name) => "true".to_owned(),
            None => rest
                .next()
                .map(str::to_owned)
                .ok_or_else(|| CliError::Usage(format!("--{name} needs a value")))?,
        };
        flags.insert(name.to_owned(), value);
    }
    let url = url.ok_or_else(|| CliError::Usage("a URL or path is needed".to_owned()))?;
    Ok((url, flags))
}
