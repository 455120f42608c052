//! The manual page, made of the one declaration of commands and flags.

use std::fmt::Write;

use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};

use super::arguments::Arguments;
use super::help;
use crate::ops::build::VERSION;

/// Prints the manual page (roff).
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "man")]
pub struct Man {}

/// A command with its words, such as `cluster add`.
pub(super) struct Told {
    pub(super) words: Vec<&'static str>,
    pub(super) info: CommandInfoWithArgs,
}

pub(super) fn commands() -> Vec<Told> {
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
            let value = if help::takes_value(flag) {
                format!(" \\fI{}\\fR", roff(name))
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                ".TP\n\\fB\\-\\-{}\\fR{value}\n{}",
                roff(name),
                roff(&help::about(flag))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn every_setting_and_command_is_in_the_manual() {
        let man = man_page();
        for setting in SETTINGS {
            let flag = roff(&setting.key.replace('_', "-"));
            assert!(man.contains(&format!("\\fB\\-\\-{flag}\\fR")), "{flag}");
        }
        for word in ["cluster add", "doctor", "config check"] {
            assert!(man.contains(&format!(".SS \"ursula {word}\"")), "{word}");
        }
        assert!(!man.contains("true or false"), "a switch takes no value");
    }
}
