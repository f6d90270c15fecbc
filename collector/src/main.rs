//! The `meshchain-collector` command.

use clap::Parser;
use log::{LevelFilter, Log, Metadata, Record};
use meshchain_collector::config::{Args, Command, Config};
use meshchain_collector::key::load_or_create;
use meshchain_store::Store;
use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let level = if args.verbose { LevelFilter::Debug } else { LevelFilter::Info };
    log::set_logger(&Stderr).map(|()| log::set_max_level(level)).ok();
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("meshchain-collector: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match args.command {
        Some(Command::Init) => init(&config),
        None => run(config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshchain-collector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the data directory and the key, and prints what a policy needs.
fn init(config: &Config) -> anyhow::Result<()> {
    let (data, key_file) = config.places();
    let _lock = Store::open(&data)?;
    let (key, new) = load_or_create(&key_file, config.origin.as_deref())?;
    let kept = if new { "made" } else { "kept, as it was there" };
    eprintln!("key {}: {kept}", key_file.display());
    println!("{}", key.verifier());
    Ok(())
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    meshchain_collector::run::run(config, stop).await
}

/// Logs for the operator go to standard error; standard output carries the audit log.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("meshchain")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}: {}", record.level().as_str().to_lowercase(), record.args());
        }
    }

    fn flush(&self) {}
}
