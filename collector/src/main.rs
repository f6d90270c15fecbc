//! The `meshchain-collector` command.

use anyhow::Context;
use clap::Parser;
use log::{LevelFilter, Log, Metadata, Record};
use meshchain_collector::aside::Aside;
use meshchain_collector::config::{Args, Command, Config};
use meshchain_collector::found::{founded, key_of};
use meshchain_collector::past::audited;
use meshchain_store::Store;
use prometheus_client::metrics::counter::Counter;
use std::io::Write;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let code = start();
    OPERATOR.finish(LAST_WORDS);
    code
}

fn start() -> ExitCode {
    let args = Args::parse();
    let level = if args.verbose { LevelFilter::Debug } else { LevelFilter::Info };
    log::set_logger(&Stderr).map(|()| log::set_max_level(level)).ok();
    let config = match Config::load(&args) {
        Ok(config) => config,
        Err(error) => {
            tell(&format!("meshchain-collector: {error}"));
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
            tell(&format!("meshchain-collector: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Makes the key and founds the log, unless they are there, and prints what a policy needs.
#[tokio::main]
async fn init(config: &Config) -> anyhow::Result<()> {
    let (data, key_file) = config.places();
    let store = Store::open(&data)?;
    let origin = config.origin.as_deref();
    let (key, new) = key_of(&store, &data, &key_file, origin, true).await?;
    let kept = if new { "made" } else { "kept, as it was there" };
    tell(&format!("key {}: {kept}", key_file.display()));
    let vkey = key.verifier().clone();
    audited(&data, &store, vkey.name()).await?;
    if !meshchain_log::is_there(&store).await? {
        let (seal_at, nobody) = (config.seal_at(), Box::new(|_: meshchain_log::Event<'_>| {}));
        meshchain_log::open(store.clone(), key, seal_at, u64::MAX, nobody).await?;
        founded(&store).await?;
        tell(&format!("log {} is founded in {data}", vkey.name()));
    }
    writeln!(std::io::stdout(), "{vkey}").context("cannot print the verification key")
}

/// Standard error. That nobody reads it is no reason to stop, or to wait.
static OPERATOR: LazyLock<Aside> =
    LazyLock::new(|| Aside::new(std::io::stderr(), Counter::default()));
/// Time that it gets, at the end, to take the last texts.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says something to the operator.
fn tell(text: &str) {
    OPERATOR.write(format!("{text}\n").into_bytes());
}

/// An error and its causes, less those that it tells itself.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Threads that requests are answered by.
const LEAST_THREADS: usize = 4;

fn run(config: Config) -> anyhow::Result<()> {
    // Where there are fewer cores, the system shares them out among more threads: a flood holds none of them for long.
    let threads = std::thread::available_parallelism().map_or(0, NonZero::get).max(LEAST_THREADS);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(threads).enable_all().build()?;
    let done = runtime.block_on(serve(config));
    // A disk that hangs holds a thread for ever, and the process no longer than this.
    runtime.shutdown_timeout(LAST_WORDS);
    done
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hang_up.recv() => {}
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
            tell(&format!("{}: {}", record.level().as_str().to_lowercase(), record.args()));
        }
    }

    fn flush(&self) {}
}
