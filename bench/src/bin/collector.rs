//! Sends batches to a collector with an empty log, and watches its checkpoint grow.

use anyhow::{Context, Result, bail};
use clap::Parser;
use meshchain_bench::batches::{Session, post};
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
/// Pause after the collector pushed back.
const PAUSE: Duration = Duration::from_millis(50);

/// Loads a collector; prints what it published how fast.
#[derive(Parser)]
struct Args {
    /// The collector, with nothing in its log yet
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
    /// Milliseconds between the batches of a session; without it each follows its predecessor's
    /// acknowledgement at once
    #[arg(long)]
    every_ms: Option<u64>,
    /// Seconds after which it fails
    #[arg(long, default_value_t = 60)]
    within: u64,
}

/// One batch that was accepted.
struct Accepted {
    sent: Instant,
    acknowledged: Instant,
    leaf: u64,
}

/// What one session saw.
#[derive(Default)]
struct Sent {
    accepted: Vec<Accepted>,
    pushed_back: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let posts: Vec<Vec<Vec<u8>>> = (0..args.sessions).map(|n| prepare(n, &args)).collect();
    let bytes: usize = posts.iter().flatten().map(Vec::len).sum();
    let mut watcher = Connection::open(args.address).await?;
    if size(&mut watcher).await? != 0 {
        bail!("the log is not empty");
    }
    let mut connections = Vec::with_capacity(args.sessions);
    for _ in 0..args.sessions {
        connections.push(Connection::open(args.address).await?);
    }
    let start = Instant::now();
    let mut sending = JoinSet::new();
    for (number, (connection, posts)) in connections.into_iter().zip(posts).enumerate() {
        // Proxies do not tick in step.
        let every = args.every_ms.map(Duration::from_millis);
        let first = start + every.unwrap_or_default() * number as u32 / args.sessions as u32;
        sending.spawn(send(connection, posts, first, every));
    }
    let all = (args.sessions * args.batches) as u64;
    let watching = tokio::spawn(watch(watcher, all));
    let limit = Duration::from_secs(args.within);
    let mut sent = Sent::default();
    let done = async {
        while let Some(session) = sending.join_next().await {
            let session = session??;
            sent.accepted.extend(session.accepted);
            sent.pushed_back += session.pushed_back;
        }
        watching.await?
    };
    let sizes = timeout(limit, done).await.context("too slow")??;
    println!("{}", report(&args, bytes, start, &sent, &sizes)?);
    Ok(())
}

fn prepare(number: usize, args: &Args) -> Vec<Vec<u8>> {
    let mut ids = Ids::new(number as u64 + 1);
    let mut session = Session::new(number, &mut ids);
    let batch = |_| post(&session.batch(args.digests, args.records, &mut ids));
    (0..args.batches).map(batch).collect()
}

async fn send(
    mut connection: Connection,
    posts: Vec<Vec<u8>>,
    first: Instant,
    every: Option<Duration>,
) -> Result<Sent> {
    let mut sent = Sent::default();
    for (post, number) in posts.into_iter().zip(0..) {
        sleep_until(first + every.unwrap_or_default() * number).await;
        let begun = Instant::now();
        let leaf = loop {
            let answer = connection.exchange(&post).await?;
            match answer.status() {
                Some(200) => break leaf_of(&answer.body)?,
                Some(503) => sent.pushed_back += 1,
                _ => {
                    bail!("answered {}: {}", answer.start, String::from_utf8_lossy(&answer.body))
                }
            }
            sleep(PAUSE).await;
        };
        sent.accepted.push(Accepted { sent: begun, acknowledged: Instant::now(), leaf });
    }
    Ok(sent)
}

fn leaf_of(body: &[u8]) -> Result<u64> {
    let answer: Value = serde_json::from_slice(body)?;
    answer["leaf"].as_u64().context("the answer names no leaf")
}

/// Each tree size that was served, and when it was first seen; ends at `all` leaves.
async fn watch(mut connection: Connection, all: u64) -> Result<Vec<(Instant, u64)>> {
    let mut seen = vec![(Instant::now(), 0)];
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
    let published = sent.accepted.iter().map(|accepted| {
        let first = sizes.partition_point(|(_, size)| *size <= accepted.leaf);
        let (seen, _) = sizes.get(first).context("a leaf is in no checkpoint")?;
        Ok(seen.saturating_duration_since(accepted.sent))
    });
    let published = Spread::of(published.collect::<Result<_>>()?);
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
        "pushed_back": sent.pushed_back,
        "record_bytes": if args.records { record_bytes() } else { 0 },
    }))
}

/// Bytes of one record.
fn record_bytes() -> usize {
    let mut ids = Ids::new(1);
    batches::Span::new(ids.bytes(), &mut ids).record().len()
}
