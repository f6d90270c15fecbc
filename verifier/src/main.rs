//! The `meshchain` program: arguments, files and exit codes around the library.

mod log_cli;

use clap::{Args, Parser, Subcommand};
use log_cli::{FsckArgs, LogCommand, MirrorArgs, run_fsck, run_log, run_mirror};
use meshchain::{
    ChainView, EquivocationReport, EvidencePage, HeaderHash, KnownHashes, NoChain, NodeUrl, Nodes,
    PagePlace, Policy, Report, fetch_evidence, judge_equivocation, render, shown, verify,
    write_atomically,
};
use meshchain_core::evidence::{Evidence, MAX_LEN};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const VERIFY_HELP: &str = include_str!("verify_help.txt");
const FSCK_HELP: &str = include_str!("fsck_help.txt");
const MIRROR_HELP: &str = include_str!("mirror_help.txt");

/// Checks receipts of calls between services, without trusting whoever kept them.
#[derive(Parser)]
#[command(name = "meshchain", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check an evidence file, offline unless --rpc is given
    #[command(after_long_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Fetch the evidence of a trace from a collector
    Evidence(EvidenceArgs),
    /// Check a whole log: every tile, bundle, chain and checkpoint
    #[command(after_long_help = FSCK_HELP)]
    Fsck(FsckArgs),
    /// Copy a log, and check all that is copied
    #[command(after_long_help = MIRROR_HELP)]
    Mirror(MirrorArgs),
    /// Look into a log
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Args)]
struct VerifyArgs {
    /// Evidence file, or a proof of equivocation out of a collector's audit log
    evidence: PathBuf,
    /// Ask this JSON-RPC node whether the anchors' blocks are on the chain, and final; repeatable,
    /// with CHAIN= for one chain
    #[arg(long, value_name = "[CHAIN=]URL", conflicts_with = "header_hash")]
    rpc: Vec<NodeUrl>,
    /// Chain id and hash of an anchor's block, got elsewhere and taken as final; repeatable
    #[arg(long, value_name = "CHAIN:HASH")]
    header_hash: Vec<HeaderHash>,
    /// Whose keys, contracts and senders to believe; without it nothing is verified
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct EvidenceArgs {
    /// Trace id, 16 or 32 hex digits
    trace_id: String,
    /// Base URL of the collector
    #[arg(long, value_name = "URL")]
    collector: String,
    /// Where to write the evidence [default: TRACE_ID.evidence.json]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Begin behind this place, where an earlier call ended
    #[arg(long, value_name = "LEAF.INDEX")]
    after: Option<PagePlace>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Verify(args) => return run_verify(&args),
        Command::Evidence(args) => run_evidence(&args),
        Command::Fsck(args) => run_fsck(&args),
        Command::Mirror(args) => run_mirror(&args),
        Command::Log(command) => run_log(&command),
    };
    done.unwrap_or_else(|reason| {
        eprintln!("meshchain: {}", shown(reason));
        ExitCode::from(2)
    })
}

fn run_verify(args: &VerifyArgs) -> ExitCode {
    if let Ok(Some(judged)) = read(&args.evidence, MAX_LEN).map(|bytes| judge_equivocation(&bytes))
    {
        return print_equivocation(&judged, args.json);
    }
    let report = check(args).unwrap_or_else(|reason| Report::unreadable(shown(reason)));
    let text = match args.json {
        true => serde_json::to_string_pretty(&report).map(|json| json + "\n"),
        false => Ok(render(&report)),
    };
    // A verdict that nobody could read is none: exit code 2 where it cannot be printed.
    printed(text, report.exit_code)
}

/// Prints a verdict. One that nobody could read is none.
fn printed(text: serde_json::Result<String>, exit_code: u8) -> ExitCode {
    let print = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    match text.map_err(std::io::Error::from).and_then(print) {
        Ok(()) => ExitCode::from(exit_code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "meshchain: cannot print the verdict: {error}");
            ExitCode::from(2)
        }
    }
}

/// The verdict on a file that says it is a proof of equivocation; such a file needs no policy.
fn print_equivocation(judged: &EquivocationReport, json: bool) -> ExitCode {
    let text = match json {
        true => serde_json::to_string_pretty(judged).map(|json| json + "\n"),
        false => Ok(judged.text()),
    };
    printed(text, judged.exit_code)
}

fn check(args: &VerifyArgs) -> Result<Report, String> {
    let policy = match &args.policy {
        Some(path) => {
            let parsed = Policy::from_json(&read(path, MAX_LEN)?);
            Some(parsed.map_err(|e| format!("{}: {e}", path.display()))?)
        }
        None => None,
    };
    let path = &args.evidence;
    let parsed = Evidence::from_json(&read(path, MAX_LEN)?);
    let evidence = parsed.map_err(|e| format!("{}: {e}", path.display()))?;
    let chain: Box<dyn ChainView> = match (args.rpc.is_empty(), args.header_hash.is_empty()) {
        (false, _) => Box::new(Nodes::new(&args.rpc)),
        (true, true) => Box::new(NoChain),
        (true, false) => Box::new(KnownHashes(args.header_hash.clone())),
    };
    Ok(verify(&evidence, policy.as_ref(), chain.as_ref()))
}

/// Reads at most one byte more than `limit`, so that what is too large is seen as such.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    let err = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(err)?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(err)?;
    Ok(bytes)
}

fn run_evidence(args: &EvidenceArgs) -> Result<ExitCode, String> {
    let (mut after, mut files) = (args.after, Vec::new());
    loop {
        let page = fetch_evidence(&args.collector, &args.trace_id, after);
        let EvidencePage { bytes, evidence, next } = page.map_err(|e| e.to_string())?;
        let default = || PathBuf::from(format!("{}.evidence.json", hex::encode(evidence.trace_id)));
        let path = numbered(args.output.clone().unwrap_or_else(default), files.len() + 1);
        write_atomically(&path, &bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        let (spans, anchors) = (evidence.spans.len(), evidence.anchors.len());
        let len = bytes.len();
        say(format!("{}: {len} bytes, {spans} spans, {anchors} anchors", path.display()));
        files.push(path);
        after = next;
        match after {
            None => break,
            Some(place) if files.len() >= MAX_FILES => {
                say(format!("there is more: go on with --after {place}"));
                break;
            }
            Some(_) => {}
        }
    }
    say("nothing is checked yet; next:".to_owned());
    for path in files.iter().take(SHOWN_FILES) {
        say(format!("  meshchain verify {} --policy POLICY.json", path.display()));
    }
    if files.len() > SHOWN_FILES {
        say(format!("  ... and so on with all {} files", files.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The files are what counts: that nobody reads along is no reason to stop.
fn say(line: String) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Files that one call fetches at most: whoever knows a trace id can add calls to it.
const MAX_FILES: usize = 1000;
const SHOWN_FILES: usize = 3;

/// The name of the n-th file: `x.json`, `x.2.json`, ...
fn numbered(path: PathBuf, number: usize) -> PathBuf {
    if number == 1 {
        return path;
    }
    match path.extension().map(|extension| extension.to_string_lossy().into_owned()) {
        Some(extension) => path.with_extension(format!("{number}.{extension}")),
        None => path.with_extension(number.to_string()),
    }
}
