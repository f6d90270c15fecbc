//! Sends batches to a collector that nobody else sends any, and watches its checkpoint grow.

use anyhow::{Context, Result, bail};
use clap::Parser;
use meshchain_bench::batches::{Session, post, trace_id};
use meshchain_bench::http::Connection;
use meshchain_bench::times::Spread;
use meshchain_bench::{Ids, batches};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Time between looks at the checkpoint: the resolution of the times to publication.
const POLL: Duration = Duration::from_millis(5);
/// Pause after the collector pushed back and did not say for how long, or closed the connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Loads a collector; prints what it published how fast.
#[derive(Parser)]
struct Args {
    /// The collector
    address: SocketAddr,
    /// Sessions, each on a connection of its own
    #[arg(long)]
    sessions: usize,
    /// Batches per session
    #[arg(long)]
    batches: usize,
    /// Digests per batch
    #[arg(long)]
    digests: u32,
    /// Send the records too
    #[arg(long)]
    records: bool,
    /// Batches per second of all sessions together, in even steps, where the collector keeps up;
    /// without it each follows its predecessor's acknowledgement at once
    #[arg(long)]
    per_s: Option<f64>,
    /// Seed of the sessions and trace ids; no two loads of one log may share it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds after which it fails
    #[arg(long, default_value_t = 60)]
    within: u64,
}

/// One batch that was accepted.
struct Accepted {
    due: Instant,
    /// Start of the POST that was not turned away.
    sent: Instant,
    acknowledged: Instant,
    leaf: u64,
}

/// What one session saw.
#[derive(Default)]
struct Sent {
    accepted: Vec<Accepted>,
    pushed_back: u64,
    reconnected: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let posts: Vec<Vec<Vec<u8>>> = (0..args.sessions).map(|n| prepare(n, &args)).collect();
    let bytes: usize = posts.iter().flatten().map(Vec::len).sum();
    let mut watcher = Connection::open(args.address).await?;
    let before = size(&mut watcher).await?;
    let mut connections = Vec::with_capacity(args.sessions);
    for _ in 0..args.sessions {
        connections.push(Connection::open(args.address).await?);
    }
    let start = Instant::now();
    let mut sending = JoinSet::new();
    for (number, (connection, posts)) in connections.into_iter().zip(posts).enumerate() {
        // Proxies do not tick in step.
        let every = args.per_s.map(|rate| Duration::from_secs_f64(args.sessions as f64 / rate));
        let first = start + every.unwrap_or_default() * number as u32 / args.sessions as u32;
        sending.spawn(send(args.address, connection, posts, first, every));
    }
    let all = before + (args.sessions * args.batches) as u64;
    let watching = tokio::spawn(watch(watcher, before, all));
    let limit = Duration::from_secs(args.within);
    let mut sent = Sent::default();
    let done = async {
        while let Some(session) = sending.join_next().await {
            let session = session??;
            sent.accepted.extend(session.accepted);
            sent.pushed_back += session.pushed_back;
            sent.reconnected += session.reconnected;
        }
        watching.await?
    };
    let sizes = timeout(limit, done).await.context("too slow")??;
    println!("{}", report(&args, bytes, start, &sent, &sizes)?);
    Ok(())
}

fn prepare(number: usize, args: &Args) -> Vec<Vec<u8>> {
    let mut ids = Ids::new(args.seed << 40 | 1 << 39 | number as u64);
    let mut session = Session::new(number, &mut ids);
    let count = u64::from(args.digests);
    let batch = |at| {
        let first = ((number * args.batches + at) as u64) * count;
        let traces: Vec<_> = (first..first + count).map(|n| trace_id(args.seed, n)).collect();
        let batch = match args.records {
            true => session.batch_with_records(&traces, &mut ids),
            false => session.batch(&traces, &mut ids),
        };
        post(&batch)
    };
    (0..args.batches).map(batch).collect()
}

async fn send(
    address: SocketAddr,
    mut connection: Connection,
    posts: Vec<Vec<u8>>,
    first: Instant,
    every: Option<Duration>,
) -> Result<Sent> {
    let mut sent = Sent::default();
    for (post, number) in posts.into_iter().zip(0..) {
        let due = every.map(|every| first + every * number);
        if let Some(due) = due {
            sleep_until(due).await;
        }
        let ready = Instant::now();
        let (sent_at, leaf) = loop {
            let begun = Instant::now();
            let Ok(answer) = connection.exchange(&post).await else {
                // Whoever is pushed back before the body is read may lose the connection as well.
                sent.reconnected += 1;
                sleep(PAUSE).await;
                connection = Connection::open(address).await?;
                continue;
            };
            match answer.status() {
                Some(200) => break (begun, leaf_of(&answer.body)?),
                Some(503) => {
                    sent.pushed_back += 1;
                    sleep(answer.retry_after.unwrap_or(PAUSE)).await;
                }
                _ => {
                    bail!("answered {}: {}", answer.start, String::from_utf8_lossy(&answer.body))
                }
            }
        };
        let (due, acknowledged) = (due.unwrap_or(ready), Instant::now());
        sent.accepted.push(Accepted { due, sent: sent_at, acknowledged, leaf });
    }
    Ok(sent)
}

fn leaf_of(body: &[u8]) -> Result<u64> {
    let answer: Value = serde_json::from_slice(body)?;
    answer["leaf"].as_u64().context("the answer names no leaf")
}

/// Each tree size that was served, and when it was first seen; ends at `all` leaves.
async fn watch(mut connection: Connection, now: u64, all: u64) -> Result<Vec<(Instant, u64)>> {
    let mut seen = vec![(Instant::now(), now)];
    loop {
        let size = size(&mut connection).await?;
        if seen.last().is_some_and(|(_, last)| size > *last) {
            seen.push((Instant::now(), size));
        }
        if size >= all {
            return Ok(seen);
        }
        sleep(POLL).await;
    }
}

/// Tree size in the served checkpoint, its second line; 0 where there is none yet.
async fn size(connection: &mut Connection) -> Result<u64> {
    let answer =
        connection.exchange(b"GET /checkpoint HTTP/1.1\r\nhost: collector\r\n\r\n").await?;
    match answer.status() {
        Some(404) => Ok(0),
        Some(200) => {
            let text = String::from_utf8(answer.body)?;
            text.lines().nth(1).and_then(|line| line.parse().ok()).context("not a checkpoint")
        }
        _ => bail!("GET /checkpoint: {}", answer.start),
    }
}

fn report(
    args: &Args,
    bytes: usize,
    start: Instant,
    sent: &Sent,
    sizes: &[(Instant, u64)],
) -> Result<Value> {
    let (end, _) = sizes.last().context("nothing was published")?;
    let mut times = [Vec::new(), Vec::new()];
    for accepted in &sent.accepted {
        let first = sizes.partition_point(|(_, size)| *size <= accepted.leaf);
        let (seen, _) = sizes.get(first).context("a leaf is in no checkpoint")?;
        times[0].push(seen.saturating_duration_since(accepted.sent));
        times[1].push(seen.saturating_duration_since(accepted.due));
    }
    let [published, published_from_due] = times.map(Spread::of);
    let acknowledged = sent.accepted.iter().map(|a| a.acknowledged - a.sent).collect();
    let digests = sent.accepted.len() as u64 * u64::from(args.digests);
    let seconds = (*end - start).as_secs_f64();
    Ok(json!({
        "sessions": args.sessions,
        "batches": sent.accepted.len(),
        "digests": digests,
        "sent_bytes": bytes,
        "seconds": seconds,
        "published_per_s": digests as f64 / seconds,
        "checkpoints": sizes.len() - 1,
        "acknowledged": Spread::of(acknowledged),
        "published": published,
        "published_from_due": published_from_due,
        "pushed_back": sent.pushed_back,
        "reconnected": sent.reconnected,
        "record_bytes": if args.records { record_bytes() } else { 0 },
    }))
}

/// Bytes of one record.
fn record_bytes() -> usize {
    let mut ids = Ids::new(1);
    batches::Span::new(ids.bytes(), &mut ids).record().len()
}
