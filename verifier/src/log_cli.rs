//! The subcommands on whole logs: `fsck`, `mirror`, `log show`, `log tail`.

use clap::{ArgGroup, Args, Subcommand};
use meshchain::log::{
    ChainNode, Directory, FsckReport, HttpLog, LogKey, LogSource, LogView, Mirror, MirrorError,
    Mirrored, ViewError, fsck_with, leaf_line, render_fsck, render_leaf, repair,
};
use meshchain::{NodeUrl, NotNodeUrl, Policy, RpcChain, quoted, shown};
use meshchain_core::VerifierKey;
use meshchain_core::evidence::MAX_LEN;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often `log tail --follow` looks for a new checkpoint.
const POLL: Duration = Duration::from_secs(1);
/// How often the progress line changes.
const PROGRESS: Duration = Duration::from_millis(100);

#[derive(Args)]
#[command(group = ArgGroup::new("signer").args(["vkey", "policy"]))]
pub(crate) struct FsckArgs {
    /// Data directory of a collector, copy of a log, or URL that serves one
    #[arg(value_name = "DIR|URL")]
    log: String,
    /// Key that must have signed the checkpoint, as name+hash+base64
    #[arg(long, value_name = "KEY")]
    vkey: Option<String>,
    /// Take the key from this policy, by the checkpoint's origin
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Compare the log with its anchors on this chain, by this JSON-RPC node; repeatable
    #[arg(long, value_name = "CHAIN=URL")]
    rpc: Vec<NodeUrl>,
    /// Write again what the log's own files or, with --rpc, the chain prove; no collector may run
    #[arg(long, requires = "signer")]
    repair: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(group = ArgGroup::new("whose").args(["vkey", "policy"]).required(true))]
pub(crate) struct MirrorArgs {
    /// URL of a collector, or of what a log publishes
    url: String,
    /// Where the copy is, and grows
    directory: PathBuf,
    /// Key that must have signed each checkpoint, as name+hash+base64
    #[arg(long, value_name = "KEY")]
    vkey: Option<String>,
    /// Take the key from this policy, by the checkpoint's origin
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Go on as the log grows, until interrupted
    #[arg(long)]
    follow: bool,
}

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Print one leaf of a log, a batch of a proxy, if the tiles prove it under the checkpoint
    Show(ShowArgs),
    /// Print the newest leaves of a log, one line each
    Tail(TailArgs),
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// Leaf index, from 0
    index: u64,
    /// Data directory of a collector, copy of a log, or URL that serves one
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// Key that must have signed the checkpoint; without it the signature is not checked
    #[arg(long, value_name = "KEY")]
    vkey: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct TailArgs {
    /// Data directory of a collector, copy of a log, or URL that serves one
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// Number of leaves
    #[arg(short, value_name = "N", default_value_t = 10)]
    n: u64,
    /// Go on with new leaves as they are published, until interrupted
    #[arg(long)]
    follow: bool,
}

fn open(log: &str) -> Result<Box<dyn LogSource>, String> {
    if log.starts_with("http://") || log.starts_with("https://") {
        return Ok(Box::new(HttpLog::new(log)));
    }
    if !Path::new(log).is_dir() {
        let log = quoted(log);
        return Err(format!(
            "{log} is no directory, and no URL: that begins with http:// or https://"
        ));
    }
    Ok(Box::new(Directory(PathBuf::from(log))))
}

fn parse_key(key: &str) -> Result<VerifierKey, String> {
    VerifierKey::parse(key).map_err(|e| format!("--vkey: {e}"))
}

fn key_of(vkey: &Option<String>, policy: &Option<PathBuf>) -> Result<LogKey, String> {
    Ok(match (vkey, policy) {
        (Some(key), _) => LogKey::Key(parse_key(key)?),
        (None, Some(path)) => {
            let parsed = Policy::from_json(&crate::read(path, MAX_LEN)?);
            LogKey::Policy(parsed.map_err(|e| format!("{}: {e}", path.display()))?)
        }
        (None, None) => LogKey::Unknown,
    })
}

pub(crate) fn run_mirror(args: &MirrorArgs) -> Result<ExitCode, String> {
    let (key, source) = (key_of(&args.vkey, &args.policy)?, open(&args.url)?);
    let mirror = Mirror::new(&*source, &key, &args.directory);
    let mut waits = Waits::default();
    loop {
        let mut progress = Progress::new();
        let run = mirror.run(&mut |done, all| progress.show(done, all));
        progress.clear();
        match run {
            Ok(Mirrored { from, head, entries }) => {
                if !args.follow || head.size != from {
                    let without = if entries { "" } else { ", without entries: none are served" };
                    let (size, root) = (head.size, hex::encode(head.root));
                    print(&format!("{from} leaves before, {size} now, root {root}{without}\n"))
                        .map_err(|e| e.to_string())?;
                }
                waits.told.clear();
            }
            Err(error @ MirrorError::Contradiction(_)) => {
                eprintln!("meshchain: {}", shown(error.to_string()));
                return Ok(ExitCode::from(1));
            }
            Err(error) if args.follow => waits.tell(&error),
            Err(error) => return Err(shown(error.to_string())),
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(POLL);
    }
}

pub(crate) fn run_fsck(args: &FsckArgs) -> Result<ExitCode, String> {
    let key = key_of(&args.vkey, &args.policy)?;
    let node = |node: &NodeUrl| match node.chain_id {
        Some(chain_id) => Ok(ChainNode { chain_id, rpc: RpcChain::new(&node.url) }),
        None => Err(format!("--rpc: {NotNodeUrl}")),
    };
    let nodes: Vec<_> = args.rpc.iter().map(node).collect::<Result<_, _>>()?;
    let source = open(&args.log)?;
    let check = || {
        let mut progress = Progress::new();
        let show = &mut |done, all| progress.show(done, all);
        let report = fsck_with(&*source, &key, &nodes, show);
        progress.clear();
        report
    };
    let mut report = check();
    if args.repair {
        let repaired = repair(Path::new(&args.log), &report)?;
        report = check();
        report.repaired = repaired;
    }
    let text = match args.json {
        true => json(&report)?,
        false => render_fsck(&report),
    };
    let FsckReport { exit_code, .. } = report;
    // A verdict that nobody could read is none.
    print(&text).map_err(|e| format!("cannot print the verdict: {e}"))?;
    Ok(ExitCode::from(exit_code))
}

pub(crate) fn run_log(command: &LogCommand) -> Result<ExitCode, String> {
    let done = match command {
        LogCommand::Show(args) => show(args),
        LogCommand::Tail(args) => return tail(args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> Result<(), String> {
    let source = open(&args.from)?;
    let view = LogView(&*source);
    let checkpoint = match &args.vkey {
        Some(key) => view.signed_checkpoint(&parse_key(key)?),
        None => view.checkpoint(),
    };
    let leaf = checkpoint.and_then(|checkpoint| view.leaf_in(&checkpoint, args.index));
    let leaf = leaf.map_err(|e| shown(e.to_string()))?;
    let text = if args.json { json(&leaf)? } else { render_leaf(&leaf) };
    print(&text).map_err(|e| e.to_string())
}

fn tail(args: &TailArgs) -> Result<ExitCode, String> {
    let source = open(&args.from)?;
    let view = LogView(&*source);
    let mut size = view.checkpoint().map_err(|e| e.to_string())?.head.size;
    let mut next = size.saturating_sub(args.n);
    let mut waits = Waits::default();
    loop {
        let mut printed = Ok(());
        let read = view.leaves(size, next..size, &mut |leaf| {
            next = leaf.index + 1;
            printed = print(&leaf_line(&leaf));
            printed.is_ok()
        });
        match printed {
            Ok(()) => {}
            // Nobody reads on.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(e) => return Err(format!("cannot print the leaves: {e}")),
        }
        if !args.follow {
            return read.map(|()| ExitCode::SUCCESS).map_err(|e| e.to_string());
        }
        let seen = match read.and_then(|()| wait(&view, size)) {
            Ok(seen) => seen,
            Err(error) => {
                waits.tell(&error);
                std::thread::sleep(POLL);
                size
            }
        };
        if seen < size {
            eprintln!("meshchain: the log shrank from {size} to {seen} leaves");
            return Ok(ExitCode::from(1));
        }
        size = seen;
    }
}

/// What passes by itself is waited out; told once.
#[derive(Default)]
struct Waits {
    told: String,
}

impl Waits {
    fn tell(&mut self, error: &impl std::fmt::Display) {
        let reason = shown(error.to_string());
        if reason != self.told {
            eprintln!("meshchain: {reason}; trying again");
            self.told = reason;
        }
    }
}

/// The size of the log after a poll.
fn wait(view: &LogView<'_>, size: u64) -> Result<u64, ViewError> {
    loop {
        std::thread::sleep(POLL);
        let seen = view.checkpoint()?.head.size;
        if seen != size {
            return Ok(seen);
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One line on a terminal; nothing elsewhere.
struct Progress {
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, started: Instant::now(), shown: None }
    }

    fn show(&mut self, done: u64, all: u64) {
        if !self.terminal || self.shown.is_some_and(|at| at.elapsed() < PROGRESS) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = progress_line(done, all, self.started.elapsed());
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn progress_line(done: u64, all: u64, elapsed: Duration) -> String {
    let percent = done as f64 * 100.0 / all.max(1) as f64;
    let bar = (percent / 5.0) as usize;
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    format!("[{:<20}] {percent:3.0} %  {done} of {all} leaves  {rate:.0} leaves/s", "#".repeat(bar))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_line_has_bar_share_and_rate() {
        let line = progress_line(256, 1024, Duration::from_secs(2));
        assert_eq!(line, "[#####               ]  25 %  256 of 1024 leaves  128 leaves/s");
        assert!(progress_line(0, 0, Duration::ZERO).contains("  0 %"));
    }
}
