//! Opens and closes very many sessions, with the longest names and as many drop counters as a header takes; later,
//! sends batches of them that come too late.

use anyhow::{Context, Result, bail};
use clap::Parser;
use meshchain_bench::Ids;
use meshchain_bench::batches::post;
use meshchain_bench::http::Connection;
use meshchain_bench::times::Spread;
use meshchain_core::header::{MAX_NAME, MAX_REPEATED};
use meshchain_core::leaf::CHAIN_START;
use meshchain_core::{BatchHeader, BatchKind, Canonical, Dropped, SessionKey, Source};
use meshchain_wire::Batch;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Pause after the collector pushed back and did not say for how long, or closed the connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens and closes sessions; prints how fast.
#[derive(Parser)]
struct Args {
    /// The collector
    address: SocketAddr,
    /// Sessions, of one batch each, which closes it
    #[arg(long)]
    sessions: u64,
    /// Connections that send at the same time
    #[arg(long, default_value_t = 500)]
    connections: u64,
    /// Instead sends so many of their batches again, one after another
    #[arg(long)]
    again: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let report = match args.again {
        None => open(&args).await?,
        Some(count) => again(&args, count).await?,
    };
    println!("{report}");
    Ok(())
}

async fn open(args: &Args) -> Result<Value> {
    let start = Instant::now();
    let mut sending = JoinSet::new();
    for number in 0..args.connections {
        let sessions = (number..args.sessions).step_by(args.connections as usize);
        sending.spawn(send(args.address, sessions));
    }
    let mut pushed_back = 0;
    while let Some(sent) = sending.join_next().await {
        pushed_back += sent??;
    }
    Ok(json!({
        "sessions": args.sessions,
        "seconds": start.elapsed().as_secs_f64(),
        "header_bytes": batch(0).header.len(),
        "pushed_back": pushed_back,
    }))
}

async fn again(args: &Args, count: u64) -> Result<Value> {
    let mut connection = Connection::open(args.address).await?;
    let (mut ids, mut times) = (Ids::new(u64::MAX), Vec::new());
    for _ in 0..count {
        let post = post(&batch(ids.number() % args.sessions));
        let begun = Instant::now();
        let answer = connection.exchange(&post).await?;
        times.push(begun.elapsed());
        let told: Value = serde_json::from_slice(&answer.body).context("not JSON")?;
        if answer.status() != Some(200) || told["replayed"] != true {
            bail!("a batch that came again: {}: {told}", answer.start);
        }
    }
    Ok(json!({ "again": Spread::of(times) }))
}

/// How often it was pushed back.
async fn send(address: SocketAddr, sessions: impl Iterator<Item = u64>) -> Result<u64> {
    let mut connection = Connection::open(address).await?;
    let mut pushed_back = 0;
    for number in sessions {
        let post = post(&batch(number));
        loop {
            let Ok(answer) = connection.exchange(&post).await else {
                sleep(PAUSE).await;
                connection = Connection::open(address).await?;
                continue;
            };
            match answer.status() {
                Some(200) => break,
                Some(503) => {
                    pushed_back += 1;
                    sleep(answer.retry_after.unwrap_or(PAUSE)).await;
                }
                _ => {
                    bail!("answered {}: {}", answer.start, String::from_utf8_lossy(&answer.body))
                }
            }
        }
    }
    Ok(pushed_back)
}

/// The only batch of a session.
fn batch(number: u64) -> Batch {
    let key = SessionKey::from_seed(Ids::new(number).bytes());
    let pod = format!("{number:0>MAX_NAME$}");
    let name = "x".repeat(MAX_NAME);
    let source = Source {
        mesh: &name,
        cluster: &name,
        namespace: &name,
        workload: &name,
        pod: &pod,
        revision: &name,
        filter: &name,
    };
    let dropped = (1..).take(MAX_REPEATED).map(|reason| Dropped { reason, count: u64::MAX });
    let header = BatchHeader {
        kind: BatchKind::Close,
        source,
        session: key.id(),
        dropped: dropped.collect(),
        ..BatchHeader::default()
    };
    Batch::seal(&key, &CHAIN_START, header.encode(), Vec::new(), Vec::new())
}
