//! Asks a collector for the evidence of traces that `bench-collector` sent, and verifies it.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use meshchain::{NoChain, Policy, Verdict, verify};
use meshchain_bench::Ids;
use meshchain_bench::batches::trace_id;
use meshchain_bench::http::Connection;
use meshchain_bench::times::{Spread, timed};
use meshchain_core::{Evidence, TlogProof};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Looks up random traces one after another; prints times and sizes.
#[derive(Parser)]
struct Args {
    /// The collector
    address: SocketAddr,
    /// Loads that it was sent, with the seeds 1 to this
    #[arg(long)]
    loads: u64,
    /// Digests in each load
    #[arg(long)]
    digests: u64,
    /// Lookups
    #[arg(long, default_value_t = 1000)]
    count: usize,
}

/// What one trace's evidence showed.
struct Seen {
    lookup: Duration,
    verify: Duration,
    bytes: usize,
    log_path: usize,
    batch_path: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut connection = Connection::open(args.address).await?;
    let log: Value = serde_json::from_slice(&get(&mut connection, "/v1/log").await?)?;
    let log = json!({ "origin": log["origin"], "vkey": log["vkey"] });
    let policy = json!({ "format": "meshchain/policy/v1", "logs": [log],
                         "require_anchor": false })
    .to_string();
    let policy = Policy::from_json(policy.as_bytes())?;
    let mut ids = Ids::new(args.loads);
    let mut seen = Vec::with_capacity(args.count);
    for _ in 0..args.count {
        let (load, span) = (1 + ids.number() % args.loads, ids.number() % args.digests);
        seen.push(look_up(&mut connection, trace_id(load, span), &policy).await?);
    }
    let last = seen.last().context("nothing was looked up")?;
    let numbers = json!({
        "lookup": Spread::of(seen.iter().map(|s| s.lookup).collect()),
        "verify": Spread::of(seen.iter().map(|s| s.verify).collect()),
        "evidence_bytes": seen.iter().map(|s| s.bytes).max(),
        "log_path_hashes": last.log_path,
        "batch_path_hashes": last.batch_path,
        "proof_bytes": 32 * (last.log_path + last.batch_path),
    });
    println!("{numbers}");
    Ok(())
}

async fn look_up(connection: &mut Connection, trace: [u8; 16], policy: &Policy) -> Result<Seen> {
    let hex: String = trace.iter().map(|byte| format!("{byte:02x}")).collect();
    let start = Instant::now();
    let body = get(connection, &format!("/v1/evidence/{hex}")).await?;
    let lookup = start.elapsed();
    let evidence = Evidence::from_json(&body)?;
    ensure!(evidence.trace_id == trace, "the evidence is of another trace than {hex}");
    let [span] = &evidence.spans[..] else {
        anyhow::bail!("trace {hex} has {} spans, not 1", evidence.spans.len());
    };
    let proof: TlogProof = TlogProof::parse(&span.tlog_proof)?;
    let (batch_path, log_path) = (span.batch.path.len(), proof.path.len());
    let (took, report) = timed(|| verify(&evidence, Some(policy), &NoChain));
    ensure!(report.verdict == Verdict::Verified, "not verified: {:?}", report.reasons);
    Ok(Seen { lookup, verify: took, bytes: body.len(), log_path, batch_path })
}

async fn get(connection: &mut Connection, path: &str) -> Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: collector\r\n\r\n");
    let answer = connection.exchange(request.as_bytes()).await?;
    ensure!(answer.status() == Some(200), "GET {path}: {}", answer.start);
    Ok(answer.body)
}
