//! The client commands. They need an address and no knowledge of the server.

use std::process::ExitCode;

/// Lines of the help.
pub const HELP: &str = "";

/// Whether this is a client command.
pub fn is_command(_word: &str) -> bool {
    false
}

/// Runs a client command.
pub fn run(_command: &str, _arguments: &[&str]) -> ExitCode {
    ExitCode::from(2)
}
