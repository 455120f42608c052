//! The program.

use std::io::Write as _;
use std::process::ExitCode;

use ursula::backup::{self, BackupError};
use ursula::cli::{self, BackupSubcommand, Command, ConfigSubcommand};
use ursula::config::{
    self, BackupListArguments, BackupVerifyArguments, Config, ConfigError, Given, RestoreArguments,
};
use ursula::ops::build::VERSION;
use ursula::ops::exit::USAGE;
use ursula::ops::logging::journal;

/// Requests and appends make many small allocations, some freed on another core than theirs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if matches!(words.first().map(String::as_str), Some("--version" | "-V")) {
        return version();
    }
    let command = match cli::parse(&words) {
        Ok(arguments) => arguments.command,
        Err(early) if early.status.is_ok() => {
            cli::print(format_args!("{}\n", early.output));
            return ExitCode::SUCCESS;
        }
        Err(early) => {
            let text = format!("ursula: {}\nSee `ursula --help`.", early.output.trim_end());
            journal::say(log::Level::Error, &text);
            return ExitCode::from(USAGE);
        }
    };
    match command {
        Command::Server(server) => serve(server.given()),
        Command::Config(config) => {
            let ConfigSubcommand::Check(check) = config.command;
            config_check(check.given())
        }
        Command::Backup(backup) => match backup.command {
            BackupSubcommand::List(list) => backup_list(list),
            BackupSubcommand::Verify(verify) => backup_verify(verify),
        },
        Command::Restore(given) => restore(given),
        Command::Scrub(given) => scrub(&given.wal_dir),
        Command::Version(_) => version(),
        Command::Man(_) => {
            cli::print(format_args!("{}", cli::man_page()));
            ExitCode::SUCCESS
        }
        Command::Completions(given) => match cli::completions(&given.shell) {
            Some(text) => {
                cli::print(format_args!("{text}"));
                ExitCode::SUCCESS
            }
            None => {
                journal::note(format_args!(
                    "ursula: {:?} is none of bash, zsh, fish",
                    given.shell
                ));
                ExitCode::from(USAGE)
            }
        },
        client => cli::run(client),
    }
}

fn version() -> ExitCode {
    cli::print(format_args!("ursula {}\n", VERSION));
    ExitCode::SUCCESS
}

type Loaded = (
    Config,
    std::collections::BTreeMap<&'static str, config::Origin>,
);

fn load((flags, file): Given) -> Result<Loaded, ConfigError> {
    let file = file.or_else(|| std::env::var_os("URSULA_CONFIG").map(Into::into));
    let (config, origins) = config::load(&flags, std::env::vars(), file.as_deref())?;
    config::check_files(&config, &origins, ursula::core::tls::check_authorities)?;
    Ok((config, origins))
}

fn refused(error: &ConfigError) -> ExitCode {
    journal::say(log::Level::Error, &format!("ursula: {error}"));
    ExitCode::from(USAGE)
}

fn config_check(given: Given) -> ExitCode {
    match load(given) {
        Ok((config, origins)) => {
            cli::print(format_args!("{}", config::describe(&config, &origins)));
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

fn backup_list(given: BackupListArguments) -> ExitCode {
    let (from, cluster, json) = (given.from.clone(), given.from_cluster.clone(), given.json);
    let history = given.history.clone();
    let listed = with_backup(given.given(), move |config| async move {
        backup::list::list(
            &config,
            from.as_deref(),
            cluster.as_deref(),
            history.as_deref(),
        )
        .await
    });
    match listed {
        Ok(summary) if json => {
            cli::print(format_args!("{}\n", summary.json()));
            ExitCode::SUCCESS
        }
        Ok(summary) => {
            cli::print(format_args!("{}", summary.text()));
            ExitCode::SUCCESS
        }
        Err(error) => backup_failed(&error),
    }
}

fn backup_verify(given: BackupVerifyArguments) -> ExitCode {
    let (from, cluster) = (given.from.clone(), given.from_cluster.clone());
    let history = given.history.clone();
    let max_lag = given.max_lag.clone();
    let verified = with_backup(given.given(), move |config| async move {
        let max_lag_ms = max_lag.as_deref().map(max_lag_ms).transpose()?;
        backup::verify::verify(
            &config,
            from.as_deref(),
            cluster.as_deref(),
            history.as_deref(),
            max_lag_ms,
        )
        .await
    });
    match verified {
        Ok(report) => {
            cli::print(format_args!("{}", report.text()));
            for damage in &report.damage {
                journal::note(format_args!("ursula: {damage}"));
            }
            match report.damage.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => backup_failed(&error),
    }
}

fn max_lag_ms(text: &str) -> Result<u64, BackupError> {
    config::millis_of(text).ok_or_else(|| {
        BackupError::Usage(format!(
            "--max-lag is {text:?}; allowed: a time, such as 60s"
        ))
    })
}

fn restore(given: RestoreArguments) -> ExitCode {
    let wanted = backup::restore::Wanted {
        from: given.from.clone(),
        cluster: given.from_cluster.clone(),
        history: given.history.clone(),
        at: given.at.clone(),
        skip_damaged: given.skip_damaged,
    };
    let restored = with_backup(given.given(), move |config| async move {
        backup::restore::restore(&config, &wanted).await
    });
    match restored {
        Ok(summary) => {
            cli::print(format_args!("{}", summary.text()));
            for lost in &summary.lost {
                journal::note(format_args!("ursula: {lost}"));
            }
            ExitCode::SUCCESS
        }
        Err(error) => backup_failed(&error),
    }
}

/// Loads the settings, and works on an executor of its own.
fn with_backup<T, F>(
    given: Given,
    work: impl FnOnce(Config) -> F + Send + 'static,
) -> Result<T, BackupError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, BackupError>> + 'static,
{
    let (config, _) = load(given)?;
    let level = config.log_level.parse().unwrap_or(log::LevelFilter::Info);
    ursula::ops::logging::start(level, config.log_format == "json");
    let result = backup::on_executor(move || work(config));
    log::logger().flush();
    result
}

fn backup_failed(error: &BackupError) -> ExitCode {
    journal::note(format_args!("ursula: {error}"));
    ExitCode::from(error.code())
}

fn scrub(dir: &std::path::Path) -> ExitCode {
    let report = match ursula::node::scrub::scrub(dir) {
        Ok(report) => report,
        Err(error) => {
            journal::note(format_args!("ursula: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let figures = [
        ("manifests", report.manifests),
        ("tables", report.tables),
        ("packs", report.packs),
        ("chunks", report.chunks),
        ("pack_bytes", report.pack_bytes),
        ("segments", report.segments),
        ("cold_packs", report.cold_packs),
        ("damaged", report.damage.len() as u64),
    ];
    let lines = figures
        .iter()
        .map(|(name, value)| format!("{name} {value}\n"));
    // Where nobody reads either, the exit code still says what was found.
    let _ = std::io::stdout().write_all(lines.collect::<String>().as_bytes());
    for damage in &report.damage {
        let _ = writeln!(std::io::stderr(), "ursula: {damage}");
    }
    match report.damage.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn serve(given: Given) -> ExitCode {
    let (config, origins) = match load(given) {
        Ok(loaded) => loaded,
        Err(error) => return refused(&error),
    };
    let level = config.log_level.parse().unwrap_or(log::LevelFilter::Info);
    ursula::ops::logging::start(level, config.log_format == "json");
    let result = ursula::node::run(&config, &origins);
    if let Err(error) = &result {
        log::error!("event=failed exit_code={} {error}", error.code());
    }
    log::logger().flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.code()),
    }
}
