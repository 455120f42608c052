//! What is said of a flag, in `--help`, in the manual and in completions; and the help of the commands whose flags are the
//! settings, which argh would print with a value for each and with all of them in the first line.

use std::fmt::Write;

use argh::{FlagInfo, FlagInfoKind};

use super::manual::Told;
use crate::config::{SETTINGS, Setting};

/// Columns of the help.
const WIDTH: usize = 80;

/// Where what is said of a flag begins.
const INDENT: usize = 20;

/// The setting that a flag is, if it is one.
pub(super) fn setting_of(flag: &str) -> Option<&'static Setting> {
    let key = flag.trim_start_matches('-').replace('-', "_");
    SETTINGS.iter().find(|s| s.key == key)
}

/// Whether a value follows it.
pub(super) fn takes_value(flag: &FlagInfo) -> bool {
    let is_switch = setting_of(flag.long).is_some_and(|s| s.is_switch);
    matches!(flag.kind, FlagInfoKind::Option { .. }) && !is_switch
}

/// What it is for, and what is allowed.
pub(super) fn about(flag: &FlagInfo) -> String {
    // A flag of the same name that is no setting says what it is by itself.
    let own = setting_of(flag.long).filter(|s| flag.description.trim().starts_with(s.help));
    let Some(setting) = own else {
        return flag.description.trim().to_owned();
    };
    let (help, default) = (setting.help, setting.default);
    let name = flag.long.trim_start_matches('-');
    match (setting.is_switch, default) {
        (true, "true") => format!("{help} On if nothing is said; --{name}=false turns it off."),
        (true, _) => format!("{help} Off if nothing is said."),
        (false, "") => format!("{help} Allowed: {}; no default.", setting.allowed),
        (false, _) => format!("{help} Allowed: {}; default: {default}.", setting.allowed),
    }
}

/// The help of a command whose flags are the settings.
pub(super) fn of_settings(told: &Told) -> String {
    let mut out = format!("Usage: ursula {}", told.words.join(" "));
    let (settings, own): (Vec<_>, Vec<_>) = told
        .info
        .flags
        .iter()
        .partition(|flag| setting_of(flag.long).is_some());
    for flag in own.iter().filter(|f| !f.long.ends_with("help")) {
        let name = flag.long.trim_start_matches('-');
        let value = if takes_value(flag) {
            format!(" <{name}>")
        } else {
            String::new()
        };
        let _ = write!(out, " [--{name}{value}]");
    }
    let _ = writeln!(out, " [--<setting> <value>]...\n");
    put_wrapped(&mut out, 0, told.info.description);
    out.push_str("\nOptions:\n");
    own.iter().for_each(|flag| put_flag(&mut out, flag));
    out.push_str("\nSettings (also keys of the file and URSULA_... in the environment):\n");
    settings.iter().for_each(|flag| put_flag(&mut out, flag));
    out
}

fn put_flag(out: &mut String, flag: &FlagInfo) {
    let name = flag.long.trim_start_matches('-');
    let value = if takes_value(flag) { " <value>" } else { "" };
    let _ = writeln!(out, "  --{name}{value}");
    put_wrapped(out, INDENT, &about(flag));
}

fn put_wrapped(out: &mut String, indent: usize, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            let _ = write!(out, "{:indent$}{word}", "");
            column = indent + length;
        } else {
            let _ = write!(out, " {word}");
            column += 1 + length;
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::manual::commands;

    #[test]
    fn switches_are_said_to_take_no_value() {
        let all = commands();
        let server = all.iter().find(|t| t.words == ["server"]).unwrap();
        let text = of_settings(server);
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        assert!(
            !text.contains("true or false") && !text.contains("default: ."),
            "{text}"
        );
        assert!(text.contains("--no-pin do not pin") && text.contains("--wal-sync <value> how"));
        assert!(
            text.contains("--client-port-ops=false turns it off"),
            "{text}"
        );
    }
}
