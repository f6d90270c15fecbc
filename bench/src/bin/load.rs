//! Closed-loop HTTP/1.1 load: each connection sends its next request when its answer is there.

use anyhow::{Result, bail};
use clap::Parser;
use meshchain_bench::Ids;
use meshchain_bench::http::Connection;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Sends a fixed number of requests; prints how many were answered, and how long that took.
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
    let left = Arc::new(AtomicU64::new(args.requests));
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (connection, number) in connections.into_iter().zip(0u64..) {
        running.spawn(send(connection, left.clone(), Ids::new(args.seed << 16 | number)));
    }
    let mut answers = 0;
    let all = async {
        while let Some(done) = running.join_next().await {
            answers += done??;
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(args.within), all).await??;
    println!("{}", json!({ "answers": answers, "seconds": start.elapsed().as_secs_f64() }));
    Ok(())
}

async fn send(mut connection: Connection, left: Arc<AtomicU64>, mut ids: Ids) -> Result<u64> {
    let take_one = |left: u64| left.checked_sub(1);
    let mut answers = 0;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take_one).is_ok() {
        let answer = connection.exchange(request(&mut ids).as_bytes()).await?;
        if answer.status() != Some(200) {
            bail!("answered {}", answer.start);
        }
        answers += 1;
    }
    Ok(answers)
}

/// A request as it reaches a sidecar inside a mesh: 20 headers, pseudo headers included.
fn request(ids: &mut Ids) -> String {
    let (trace, span, parent) = (ids.number(), ids.number(), ids.number());
    let request = ids.number();
    format!(
        "GET /reviews/0?user=jason HTTP/1.1\r\n\
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
         \r\n",
        request = request >> 16,
    )
}
