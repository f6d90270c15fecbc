//! HTTP/1.1 load: in a closed loop, or at a fixed rate.

use anyhow::{Result, bail};
use clap::Parser;
use meshchain_bench::Ids;
use meshchain_bench::http::Connection;
use meshchain_bench::times::Spread;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Sends a fixed number of requests; prints how many were answered, and how long they took.
#[derive(Parser)]
struct Args {
    /// Where to send them
    address: SocketAddr,
    /// Connections, all open before the first request
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests in all
    #[arg(long)]
    requests: u64,
    /// Requests per second, in even steps; without it each connection sends its next request when its
    /// answer is there
    #[arg(long)]
    per_s: Option<f64>,
    /// Bytes of each request's body; with any, they are POSTs
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// Seconds after which it fails
    #[arg(long, default_value_t = 60)]
    within: u64,
    /// Seed of the ids in the trace headers; no two runs should share one
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut connections = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        connections.push(Connection::open(args.address).await?);
    }
    let plan = Arc::new(Plan {
        next: AtomicU64::new(0),
        start: Instant::now(),
        every: args.per_s.map(|rate| Duration::from_secs_f64(1.0 / rate)),
        args,
    });
    let mut running = JoinSet::new();
    for (connection, number) in connections.into_iter().zip(0u64..) {
        let ids = Ids::new(plan.args.seed << 16 | number);
        running.spawn(send(connection, plan.clone(), ids));
    }
    let mut times = Vec::new();
    let all = async {
        while let Some(done) = running.join_next().await {
            times.extend(done??);
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(plan.args.within), all).await??;
    let (answers, seconds) = (times.len(), plan.start.elapsed().as_secs_f64());
    println!("{}", json!({ "answers": answers, "seconds": seconds, "times": Spread::of(times) }));
    Ok(())
}

/// What all connections share.
struct Plan {
    args: Args,
    next: AtomicU64,
    start: Instant,
    every: Option<Duration>,
}

/// The time of each request to the end of its answer; of one that had to wait for its connection, from when
/// it was due.
async fn send(mut connection: Connection, plan: Arc<Plan>, mut ids: Ids) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    loop {
        let number = plan.next.fetch_add(1, Ordering::Relaxed);
        if number >= plan.args.requests {
            return Ok(times);
        }
        let due = plan.every.map(|every| plan.start + every.mul_f64(number as f64));
        let start = match due {
            Some(due) if due < Instant::now() => due,
            // The timer wakes up to a millisecond late, which is not Envoy's doing.
            Some(due) => {
                sleep_until(due).await;
                Instant::now()
            }
            None => Instant::now(),
        };
        let answer = connection.exchange(&request(&mut ids, plan.args.body)).await?;
        if answer.status() != Some(200) {
            bail!("answered {}", answer.start);
        }
        times.push(start.elapsed());
    }
}

/// A request as it reaches a sidecar inside a mesh: 21 headers, pseudo headers included. The last is
/// what the sidecar adds itself where mTLS is on; Envoy takes it out again where it is to.
fn request(ids: &mut Ids, body: usize) -> Vec<u8> {
    let (trace, span, parent) = (ids.number(), ids.number(), ids.number());
    let request = ids.number();
    let (method, length) = match body {
        0 => ("GET", String::new()),
        _ => ("POST", format!("content-length: {body}\r\n")),
    };
    let head = format!(
        "{method} /reviews/0?user=jason HTTP/1.1\r\n\
         host: reviews.bookinfo.svc.cluster.local:9080\r\n\
         user-agent: python-requests/2.32.3\r\n\
         accept: */*\r\n\
         accept-encoding: gzip, deflate, br\r\n\
         accept-language: en-GB,en;q=0.9,de;q=0.8\r\n\
         authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJqYXNvbiJ9.c2lnbmF0dXJl\r\n\
         cache-control: no-cache\r\n\
         cookie: session=eyJ1c2VyIjoiamFzb24ifQ.ZzQ1Ng.Wm9vYmFyYmF6\r\n\
         referer: http://productpage.bookinfo.example/productpage?u=normal\r\n\
         x-forwarded-for: 10.244.1.17\r\n\
         x-forwarded-proto: http\r\n\
         x-request-id: c4a7d0f2-51b5-9e0c-8c5d-{request:012x}\r\n\
         x-b3-traceid: {trace:016x}{request:016x}\r\n\
         x-b3-spanid: {span:016x}\r\n\
         x-b3-parentspanid: {parent:016x}\r\n\
         x-b3-sampled: 1\r\n\
         x-envoy-peer-metadata-id: sidecar~10.244.1.17~productpage-v1-0.bookinfo~bookinfo.svc.cluster.local\r\n\
         x-forwarded-client-cert: By=spiffe://cluster.local/ns/bookinfo/sa/reviews;Hash={trace:064x};\
         URI=spiffe://cluster.local/ns/bookinfo/sa/productpage\r\n\
         {length}\r\n",
        request = request >> 16,
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + body, b'.');
    bytes
}
