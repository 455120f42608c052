//! The command line: the client commands, which need an address and no knowledge of the server, and the way to the
//! server itself.

mod arguments;
mod client;
mod cluster;
mod cluster_arguments;
mod commands;
mod completions;
mod doctor;
mod help;
mod manual;
mod output;

use std::process::ExitCode;

pub use arguments::{Arguments, BackupSubcommand, Command, ConfigSubcommand, Scrub, parse};
pub use cluster::{NodeStatus, cluster_as_json, cluster_status};
pub use commands::CliError;
pub use completions::completions;
pub use manual::man_page;
pub use output::print;

use crate::ops::logging::journal::note;

/// Runs a client command.
pub fn run(command: Command) -> ExitCode {
    match commands::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("ursula: {error}"));
            ExitCode::from(error.code())
        }
    }
}
