//! Completions, as the shells carry them out.

use std::path::Path;
use std::process::Command;

use integration::{Server, scratch_dir, skip};

/// Writes a shell's completions into a directory, which gets something to complete, too.
fn prepare(shell: &str, dir: &Path) {
    let mut command = Command::new(Server::binary());
    let output = command.args(["completions", shell]).output().unwrap();
    assert!(output.status.success());
    std::fs::write(dir.join("completions"), output.stdout).unwrap();
    std::fs::create_dir(dir.join("own dir")).unwrap();
    std::fs::write(dir.join("own.toml"), "").unwrap();
}

/// Runs a script of a shell in a directory; `None` where that shell is not installed.
fn run(shell: &str, script: &str, dir: &Path) -> Option<Vec<String>> {
    let output = Command::new(shell)
        .args(["-c", script])
        .current_dir(dir)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{shell}: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| {
        // fish tells what each is for; some end a directory with a slash, and some quote its space.
        let word = line.split('\t').next().unwrap_or(line);
        word.trim_end_matches('/')
            .replace('\\', "")
            .trim()
            .to_owned()
    });
    let mut words: Vec<String> = lines.filter(|w| !w.is_empty()).collect();
    words.sort_unstable();
    words.dedup();
    Some(words)
}

/// What is typed, words that are offered, and one that is not.
const CASES: [(&str, &[&str], &str); 10] = [
    ("ursula ", &["server", "cluster", "completions"], "add"),
    ("ursula cluster ", &["add", "drain", "status"], "server"),
    ("ursula cluster add --un", &["--unseen"], "--undo"),
    (
        "ursula server --wal-sync ",
        &["dsync", "fdatasync"],
        "--listen",
    ),
    (
        "ursula config check --log-format ",
        &["json", "logfmt"],
        "own.toml",
    ),
    ("ursula server --wal-dir own", &["own dir"], "own.toml"),
    ("ursula server --config own", &["own.toml"], "--config"),
    (
        "ursula server --no-pin --log-l",
        &["--log-level"],
        "own.toml",
    ),
    ("ursula completions ", &["bash", "fish", "zsh"], "own.toml"),
    ("ursula tail /v1/stream/a --offset n", &["now"], "--json"),
];

fn check(shell: &str, script_of: impl Fn(&str) -> String) {
    let dir = scratch_dir();
    prepare(shell, dir.path());
    for (typed, offered, other) in CASES {
        let Some(found) = run(shell, &script_of(typed), dir.path()) else {
            return skip(format!("{shell} is not installed"));
        };
        for word in offered {
            assert!(
                found.iter().any(|f| f == word),
                "{shell}: {typed:?} offers {found:?}"
            );
        }
        assert!(
            !found.iter().any(|f| f == other),
            "{shell}: {typed:?} offers {found:?}"
        );
    }
}

#[test]
fn bash_completes() {
    check("bash", |typed| {
        let words = typed.split(' ').collect::<Vec<_>>();
        let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        format!(
            "source ./completions; COMP_WORDS=({}); COMP_CWORD={}; _ursula 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words.len() - 1
        )
    });
    let dir = scratch_dir();
    prepare("bash", dir.path());
    // With =, which bash takes for a word.
    let script = "source ./completions; COMP_WORDS=(ursula server --wal-sync = fd); COMP_CWORD=4; _ursula; echo \"${COMPREPLY[*]}\"";
    assert_eq!(run("bash", script, dir.path()).unwrap(), ["fdatasync"]);
}

#[test]
fn fish_completes() {
    check("fish", |typed| {
        format!("source ./completions; complete -C '{typed}'")
    });
}

/// Types into a zsh that has a terminal, since completion is a part of its line editor, and prints what it lists.
const ZSH: &str = r#"
zmodload zsh/zpty
export TERM=dumb
zpty -b z zsh -f -i
zpty -w z "stty cols 300 rows 1000; unsetopt zle_bracketed_paste; PS1=; LISTMAX=10000"
zpty -w z "autoload -Uz compinit; compinit -u -d ./dump; source ./completions"
zpty -w z "zstyle ':completion:*' verbose no; bindkey '^I' list-choices; print BEGIN''NING"
all= line=
for i in {1..1000}; do zpty -r -t z line && all+=$line || sleep 0.02; [[ $all == *BEGINNING* ]] && break; done
zpty -n -w z "$typed"$'\t'
all=
# Behind the list it shows again what was typed.
for i in {1..600}; do
  zpty -r -t z line && all+=$line || sleep 0.05
  [[ $all == *"$typed"*$'\n'*"$typed"* ]] && break
done
zpty -d z
print -r -- $all | tr -d '\r' | sed 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/   */\n/g'
"#;

#[test]
fn zsh_completes() {
    check("zsh", |typed| format!("typed='{typed}'{ZSH}"));
}
