//! The manual page and the completions of shells, made of the one declaration of commands and flags.

use std::fmt::Write;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs};

use super::arguments::Arguments;
use crate::config::SETTINGS;
use crate::ops::build::VERSION;

/// Prints the manual page (roff).
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "man")]
pub struct Man {}

/// Prints the completions of a shell: bash, zsh or fish.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "completions")]
pub struct Completions {
    /// bash, zsh or fish
    #[argh(positional)]
    pub shell: String,
}

/// A command with its words, such as `cluster add`.
struct Told {
    words: Vec<&'static str>,
    info: CommandInfoWithArgs,
}

fn commands() -> Vec<Told> {
    fn walk(words: &[&'static str], info: CommandInfoWithArgs, all: &mut Vec<Told>) {
        let below = info.commands.clone();
        all.push(Told {
            words: words.to_vec(),
            info,
        });
        for sub in below {
            let words = [words, &[sub.name]].concat();
            walk(&words, sub.command, all);
        }
    }
    let mut all = Vec::new();
    walk(&[], Arguments::get_args_info(), &mut all);
    all
}

fn takes_value(flag: &FlagInfo) -> bool {
    let key = flag.long.trim_start_matches('-').replace('-', "_");
    let is_switch = SETTINGS.iter().any(|s| s.is_switch && s.key == key);
    matches!(flag.kind, FlagInfoKind::Option { .. }) && !is_switch
}

/// Plain text in roff: a line may not begin with a control character, and `\` and `-` mean something.
fn roff(text: &str) -> String {
    let text = text.trim().replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// The manual page.
pub fn man_page() -> String {
    let mut out = String::new();
    let all = commands();
    let _ = writeln!(
        out,
        ".TH URSULA 1 \"\" \"ursula {VERSION}\" \"User Commands\""
    );
    let _ = writeln!(
        out,
        ".SH NAME\nursula \\- durable, replayable event streams over plain HTTP"
    );
    let _ = writeln!(
        out,
        ".SH SYNOPSIS\n.B ursula\n.I command\n.RI [ options ]\n.SH DESCRIPTION"
    );
    let Some(top) = all.first() else {
        return out;
    };
    let _ = writeln!(out, "{}", roff(top.info.description));
    for note in top.info.notes {
        let _ = writeln!(out, ".PP\n{}", roff(note));
    }
    let _ = writeln!(out, ".SH COMMANDS");
    for told in all.iter().filter(|t| !t.words.is_empty()) {
        let _ = writeln!(
            out,
            ".SS \"ursula {}\"\n{}",
            told.words.join(" "),
            roff(told.info.description)
        );
        for positional in told.info.positionals {
            let _ = writeln!(
                out,
                ".TP\n.I {}\n{}",
                roff(positional.name),
                roff(positional.description)
            );
        }
        // Those of `config check` are the same as of `server`.
        if told.words == ["config", "check"] {
            let _ = writeln!(
                out,
                ".PP\nThe options are those of\n.BR \"ursula server\" ."
            );
            continue;
        }
        for flag in told.info.flags.iter().filter(|f| f.long != "--help") {
            let name = flag.long.trim_start_matches('-');
            let value = if takes_value(flag) {
                format!(" \\fI{}\\fR", roff(name))
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                ".TP\n\\fB\\-\\-{}\\fR{value}\n{}",
                roff(name),
                roff(flag.description)
            );
        }
    }
    let _ = writeln!(out, ".SH \"EXIT STATUS\"");
    for code in top.info.error_codes {
        let _ = writeln!(out, ".TP\n.B {}\n{}", code.code, roff(code.description));
    }
    let _ = writeln!(
        out,
        ".SH ENVIRONMENT\nEach setting is also a variable, such as\n.BR URSULA_WAL_DIR ."
    );
    let _ = writeln!(out, ".SH EXAMPLES\n.nf");
    for example in top.info.examples {
        let _ = writeln!(
            out,
            "{}",
            roff(&example.replace("{command_name}", "ursula"))
        );
    }
    out.push_str(".fi\n");
    out
}

/// The completions of a shell; `None`: an unknown one.
pub fn completions(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        // zsh reads those of bash.
        "zsh" => Some(format!(
            "#compdef ursula\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash()
        )),
        "fish" => Some(fish()),
        _ => None,
    }
}

fn words_after(told: &Told) -> String {
    let below = told.info.commands.iter().map(|c| c.name.to_owned());
    let flags = told
        .info
        .flags
        .iter()
        .map(|f| format!("--{}", f.long.trim_start_matches('-')));
    below.chain(flags).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let mut out = "_ursula() {\n  local current=${COMP_WORDS[COMP_CWORD]} path= word\n  \
                   for word in \"${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}\"; do\n    \
                   case \"$path $word\" in\n"
        .to_owned();
    let all = commands();
    for told in all.iter().filter(|t| !t.words.is_empty()) {
        let path = told.words.join(" ");
        let _ = writeln!(out, "      ' {path}') path=' {path}' ;;");
    }
    out.push_str("    esac\n  done\n  local words=\n  case \"$path\" in\n");
    for told in &all {
        let path = told
            .words
            .iter()
            .map(|w| format!(" {w}"))
            .collect::<String>();
        let _ = writeln!(out, "    '{path}') words='{}' ;;", words_after(told));
    }
    out.push_str(
        "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n  \
         if [ ${#COMPREPLY[@]} -eq 0 ]; then COMPREPLY=($(compgen -f -- \"$current\")); fi\n}\ncomplete -F _ursula ursula\n",
    );
    out
}

fn fish() -> String {
    let quoted = |text: &str| text.trim().replace('\\', "\\\\").replace('\'', "\\'");
    let mut out = String::new();
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
                "complete -c ursula -f{condition} -a {} -d '{about}'",
                command.name
            );
        }
        for flag in told.info.flags {
            let value = if takes_value(flag) { " -r" } else { "" };
            let name = flag.long.trim_start_matches('-');
            let _ = writeln!(
                out,
                "complete -c ursula{condition} -l {name}{value} -d '{}'",
                quoted(flag.description)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_and_command_is_in_the_manual_and_in_the_completions() {
        let man = man_page();
        let shells = ["bash", "zsh", "fish"].map(|shell| completions(shell).unwrap());
        for setting in SETTINGS {
            let flag = setting.key.replace('_', "-");
            assert!(
                man.contains(&format!("\\fB\\-\\-{}\\fR", roff(&flag))),
                "{flag}"
            );
            for text in &shells[..2] {
                assert!(
                    text.contains(&format!("--{flag} ")) || text.contains(&format!("--{flag}'")),
                    "{flag}"
                );
            }
            assert!(shells[2].contains(&format!("-l {flag} ")), "{flag}");
        }
        for word in ["cluster add", "doctor", "config check"] {
            assert!(man.contains(&format!(".SS \"ursula {word}\"")), "{word}");
        }
        assert!(completions("csh").is_none());
    }
}
