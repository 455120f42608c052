//! The completions of shells, made of the one declaration of commands and flags: commands, flags, and for what follows a flag its
//! values, files or directories, where that is known.

use std::fmt::Write;

use argh::{ArgsInfo, FromArgs};

use super::help;
use super::manual::{Told, commands};

/// Prints the completions of a shell. For bash: `source <(ursula completions bash)`; for zsh the same, after compinit; for
/// fish: `ursula completions fish | source`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "completions")]
pub struct Completions {
    /// bash, zsh or fish
    #[argh(positional)]
    pub shell: String,
}

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// What can follow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Values {
    /// One of these.
    Words(Vec<&'static str>),
    Files,
    Directories,
    /// Only the user knows.
    Anything,
}

/// The completions of a shell; `None`: an unknown one.
pub fn completions(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// The values of a flag that takes some.
fn values_of(flag: &str) -> Values {
    let name = flag.trim_start_matches('-');
    if let Some(setting) = help::setting_of(flag) {
        return allowed_values(setting.allowed);
    }
    match name {
        "config" => Values::Files,
        "raft-log-dir" | "from" => Values::Directories,
        "offset" => Values::Words(vec!["-1", "now"]),
        "content-type" => Values::Words(vec![
            "application/json",
            "application/octet-stream",
            "text/plain",
        ]),
        _ => Values::Anything,
    }
}

/// By the words that say what a setting allows.
fn allowed_values(allowed: &'static str) -> Values {
    if allowed.starts_with("a directory") {
        return Values::Directories;
    }
    if allowed.starts_with("a file") || allowed.ends_with(" file") {
        return Values::Files;
    }
    let words: Vec<&str> = allowed.split(", ").flat_map(|w| w.split(" or ")).collect();
    let is_word = |word: &&str| !word.contains(char::is_whitespace) && !word.contains("://");
    if words.len() < 2 || !words.iter().all(is_word) {
        return Values::Anything;
    }
    // Capitals stand for what is to be filled in.
    let is_fixed = |word: &&str| !word.contains(|c: char| c.is_ascii_uppercase());
    Values::Words(words.into_iter().filter(is_fixed).collect())
}

/// What follows the command itself, beside flags.
fn positional_of(told: &Told) -> Values {
    match told.words[..] {
        ["completions"] => Values::Words(SHELLS.to_vec()),
        _ => Values::Anything,
    }
}

/// ` cluster add`: with a space before each word.
fn path_of(told: &Told) -> String {
    told.words.iter().map(|word| format!(" {word}")).collect()
}

fn flags_with_values(told: &Told) -> impl Iterator<Item = (String, Values)> {
    let flags = told.info.flags.iter().filter(|f| help::takes_value(f));
    flags.map(|f| {
        let name = format!("--{}", f.long.trim_start_matches('-'));
        let values = values_of(&name);
        (name, values)
    })
}

/// Follows the words to the command that they name.
const BASH_HEAD: &str = "_ursula() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} path= word words= IFS=$' \\t\\n'
  # Bash takes --flag=value apart.
  if [ \"$current\" = '=' ]; then current=; elif [ \"$previous\" = '=' ]; then previous=${COMP_WORDS[COMP_CWORD - 2]}; fi
  for word in \"${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}\"; do
    case \"$path $word\" in
";

const BASH_PATHS: &str = "_ursula_paths() {
  local IFS=$'\\n'
  compopt -o filenames
  COMPREPLY=($(compgen \"$1\" -- \"$2\"))
}
";

fn bash() -> String {
    let all = commands();
    let mut out = format!("{BASH_PATHS}{BASH_HEAD}");
    for told in all.iter().filter(|t| !t.words.is_empty()) {
        let path = path_of(told);
        let _ = writeln!(out, "      '{path}') path='{path}' ;;");
    }
    out.push_str("    esac\n  done\n  case \"$path $previous\" in\n");
    for told in &all {
        let path = path_of(told);
        for (flag, values) in flags_with_values(told) {
            let then = match values {
                Values::Words(words) => format!("words='{}'", words.join(" ")),
                Values::Files => "_ursula_paths -f \"$current\"; return".to_owned(),
                Values::Directories => "_ursula_paths -d \"$current\"; return".to_owned(),
                Values::Anything => "return".to_owned(),
            };
            let _ = writeln!(out, "    '{path} {flag}') {then} ;;");
        }
    }
    out.push_str("  esac\n  [ -n \"$words\" ] || case \"$path\" in\n");
    for told in &all {
        let below = told.info.commands.iter().map(|c| c.name.to_owned());
        let flags = told.info.flags.iter();
        let flags = flags.map(|f| format!("--{}", f.long.trim_start_matches('-')));
        let mut words: Vec<String> = below.chain(flags).collect();
        if let Values::Words(more) = positional_of(told) {
            words.extend(more.into_iter().map(str::to_owned));
        }
        let _ = writeln!(
            out,
            "    '{}') words='{}' ;;",
            path_of(told),
            words.join(" ")
        );
    }
    out.push_str("  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}\ncomplete -F _ursula ursula\n");
    out
}

/// In single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.trim().replace('\'', "'\\''"))
}

const ZSH_HEAD: &str = "#compdef ursula
_ursula() {
  local at= word previous=${words[CURRENT-1]} flag
  local -a found
  if [[ ${words[CURRENT]} == --*=* ]]; then
    previous=${words[CURRENT]%%=*}
    compset -P '*='
  fi
  for word in ${words[2,CURRENT-1]}; do
    case \"$at $word\" in
";

const ZSH_END: &str = "  esac
  _describe ursula found
}
if [ \"${funcstack[1]}\" = _ursula ]; then _ursula \"$@\"; else compdef _ursula ursula; fi
";

fn zsh() -> String {
    let all = commands();
    let mut out = ZSH_HEAD.to_owned();
    for told in all.iter().filter(|t| !t.words.is_empty()) {
        let path = path_of(told);
        let _ = writeln!(out, "      '{path}') at='{path}' ;;");
    }
    out.push_str("    esac\n  done\n  case \"$at $previous\" in\n");
    for told in &all {
        let path = path_of(told);
        for (flag, values) in flags_with_values(told) {
            let then = match values {
                Values::Words(words) => format!("compadd -- {}", words.join(" ")),
                Values::Files => "_files".to_owned(),
                Values::Directories => "_files -/".to_owned(),
                Values::Anything => "_message value".to_owned(),
            };
            let _ = writeln!(out, "    '{path} {flag}') {then}; return ;;");
        }
    }
    out.push_str("  esac\n  case \"$at\" in\n");
    for told in &all {
        let _ = writeln!(out, "    '{}') found=(", path_of(told));
        if let Values::Words(words) = positional_of(told) {
            words.iter().for_each(|word| {
                let _ = writeln!(out, "      {word}");
            });
        }
        for command in &told.info.commands {
            let about = format!("{}:{}", command.name, command.command.description.trim());
            let _ = writeln!(out, "      {}", quoted(&about));
        }
        for flag in told.info.flags {
            let name = flag.long.trim_start_matches('-');
            let about = format!("--{name}:{}", help::about(flag));
            let _ = writeln!(out, "      {}", quoted(&about));
        }
        out.push_str("    ) ;;\n");
    }
    out.push_str(ZSH_END);
    out
}

fn fish() -> String {
    let quoted = |text: &str| text.trim().replace('\\', "\\\\").replace('\'', "\\'");
    // No files, but where they are asked for.
    let mut out = "complete -c ursula -f\n".to_owned();
    for told in commands() {
        let seen = told
            .words
            .iter()
            .map(|w| format!("__fish_seen_subcommand_from {w}"));
        let below: Vec<&str> = told.info.commands.iter().map(|c| c.name).collect();
        let mut conditions: Vec<String> = seen.collect();
        if !below.is_empty() {
            conditions.push(format!(
                "not __fish_seen_subcommand_from {}",
                below.join(" ")
            ));
        }
        let condition = match conditions.is_empty() {
            true => String::new(),
            false => format!(" -n '{}'", conditions.join("; and ")),
        };
        for command in &told.info.commands {
            let about = quoted(command.command.description);
            let _ = writeln!(
                out,
                "complete -c ursula{condition} -a {} -d '{about}'",
                command.name
            );
        }
        if let Values::Words(words) = positional_of(&told) {
            let _ = writeln!(
                out,
                "complete -c ursula{condition} -a '{}'",
                words.join(" ")
            );
        }
        for flag in told.info.flags {
            let name = flag.long.trim_start_matches('-');
            let value = match help::takes_value(flag).then(|| values_of(flag.long)) {
                None => String::new(),
                Some(Values::Anything) => " -x".to_owned(),
                Some(Values::Words(words)) => format!(" -x -a '{}'", words.join(" ")),
                Some(Values::Files) => " -r -F".to_owned(),
                Some(Values::Directories) => " -x -a '(__fish_complete_directories)'".to_owned(),
            };
            let _ = writeln!(
                out,
                "complete -c ursula{condition} -l {name}{value} -d '{}'",
                quoted(&help::about(flag))
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn every_setting_is_completed_and_what_can_follow_it() {
        let [bash, zsh, fish] = SHELLS.map(|shell| completions(shell).unwrap());
        for setting in SETTINGS {
            let flag = setting.key.replace('_', "-");
            let is_there = |end| bash.contains(&format!("--{flag}{end}"));
            assert!(is_there(" ") || is_there("'"), "{flag}");
            assert!(zsh.contains(&format!("'--{flag}:")), "{flag}");
            assert!(fish.contains(&format!("-l {flag} ")), "{flag}");
        }
        assert!(completions("csh").is_none());
        let known = SETTINGS.iter().filter(|s| !s.is_switch);
        let known = known.map(|s| (s.key, allowed_values(s.allowed)));
        let told: Vec<_> = known.filter(|(_, v)| *v != Values::Anything).collect();
        let words = |words: &[&'static str]| Values::Words(words.to_vec());
        let expected = [
            ("admin_token_file", Values::Files),
            ("wal_dir", Values::Directories),
            ("cold", Values::Directories),
            ("s3_addressing", words(&["auto", "path", "virtual"])),
            ("s3_ca_file", Values::Files),
            ("s3_encryption", words(&["none", "s3", "kms"])),
            ("cache_dir", Values::Directories),
            ("read_mode", words(&["lease", "read-index"])),
            ("wal_sync", words(&["fdatasync", "dsync"])),
            (
                "cross_origin_resource_policy",
                words(&["cross-origin", "same-site", "same-origin"]),
            ),
            (
                "log_level",
                words(&["error", "warn", "info", "debug", "trace"]),
            ),
            ("log_format", words(&["logfmt", "json"])),
        ];
        assert_eq!(told, expected);
    }
}
