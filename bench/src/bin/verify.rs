//! Time to verify an evidence file, and its size.

use anyhow::{Result, ensure};
use clap::Parser;
use meshchain::{ChainView, HeaderHash, KnownHashes, NoChain, Policy, Verdict, verify};
use meshchain_bench::evidence::{CALLS, CHAIN_ID, Case, LEAVES, TRANSACTIONS, case};
use meshchain_bench::times::{Spread, timed};
use meshchain_core::Evidence;
use serde_json::{Value, json};
use std::fs::write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROCESSES: usize = 100;
/// Verifications in this process, divided among the spans of a file.
const VERIFICATIONS: usize = 1000;

/// Verifies synthetic evidence, in this process and with the program; prints JSON.
#[derive(Parser)]
struct Args {
    /// The program
    meshchain: PathBuf,
    /// Directory for the files
    directory: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cases = [(1, false), (1, true), (10, true), (100, true)];
    let files = cases.map(|(spans, anchored)| measure(spans, anchored, &args));
    let files = files.into_iter().collect::<Result<Vec<_>>>()?;
    let log = json!({ "leaves": LEAVES, "calls_per_batch": CALLS, "transactions": TRANSACTIONS });
    println!("{}", json!({ "log": log, "files": files }));
    Ok(())
}

fn measure(spans: usize, anchored: bool, args: &Args) -> Result<Value> {
    let case = case(spans, anchored)?;
    let file = case.evidence.to_json()?;
    let (parse, check) = library(&case, &file, VERIFICATIONS / spans)?;
    let process = program(&case, &file, args)?;
    Ok(json!({
        "spans": spans,
        "anchored": anchored,
        "bytes": file.len(),
        "parse": parse,
        "verify": check,
        "process": process,
    }))
}

/// Times of reading the file, and of checking what was read.
fn library(case: &Case, file: &str, count: usize) -> Result<(Spread, Spread)> {
    let policy = Policy::from_json(case.policy.to_string().as_bytes())?;
    let chain: Box<dyn ChainView> = match case.block {
        Some(hash) => Box::new(KnownHashes(vec![HeaderHash { chain_id: CHAIN_ID, hash }])),
        None => Box::new(NoChain),
    };
    let (mut parse, mut check) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (took, evidence) = timed(|| Evidence::from_json(black_box(file.as_bytes())));
        parse.push(took);
        let evidence = evidence?;
        let (took, report) = timed(|| verify(&evidence, Some(&policy), chain.as_ref()));
        check.push(took);
        ensure!(report.verdict == Verdict::Verified, "not verified: {:?}", report.reasons);
    }
    Ok((Spread::of(parse), Spread::of(check)))
}

/// Time of the whole program, start and end included.
fn program(case: &Case, file: &str, args: &Args) -> Result<Spread> {
    let path = |name: &str| -> PathBuf { Path::join(&args.directory, name) };
    write(path("evidence.json"), file)?;
    write(path("policy.json"), case.policy.to_string())?;
    let mut command = Command::new(&args.meshchain);
    command.arg("verify").arg(path("evidence.json")).arg("--policy").arg(path("policy.json"));
    if let Some(hash) = case.block {
        command.arg("--header-hash").arg(format!("{CHAIN_ID}:{hash}"));
    }
    command.stdout(Stdio::null());
    let mut times = Vec::with_capacity(PROCESSES);
    for _ in 0..PROCESSES {
        let (took, status) = timed(|| command.status());
        let status = status?;
        ensure!(status.success(), "meshchain verify: {status}");
        times.push(took);
    }
    Ok(Spread::of(times))
}
