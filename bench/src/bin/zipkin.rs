//! Sends a Zipkin server the spans of `bench-collector --records`, as JSON v2.

use anyhow::{Context, Result, bail};
use clap::Parser;
use meshchain_bench::Ids;
use meshchain_bench::batches::trace_id;
use meshchain_bench::http::Connection;
use meshchain_bench::times::Spread;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Posts batches of spans in a closed loop; prints how fast they were accepted.
#[derive(Parser)]
struct Args {
    /// The server
    address: SocketAddr,
    /// Connections, all open before the first request
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Batches per connection
    #[arg(long)]
    batches: usize,
    /// Spans per batch
    #[arg(long, default_value_t = 1000)]
    spans: u64,
    /// Spans of each trace
    #[arg(long, default_value_t = 1)]
    per_trace: u64,
    /// Seed of the ids; no two runs should share one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds after which it fails
    #[arg(long, default_value_t = 60)]
    within: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let posts: Vec<Vec<Vec<u8>>> = (0..args.connections).map(|n| prepare(n, &args)).collect();
    let bytes: usize = posts.iter().flatten().map(Vec::len).sum();
    let mut connections = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        connections.push(Connection::open(args.address).await?);
    }
    let start = Instant::now();
    let mut sending = JoinSet::new();
    for (connection, posts) in connections.into_iter().zip(posts) {
        sending.spawn(send(connection, posts));
    }
    let mut accepted = Vec::new();
    let all = async {
        while let Some(done) = sending.join_next().await {
            accepted.extend(done??);
        }
        anyhow::Ok(())
    };
    timeout(Duration::from_secs(args.within), all).await.context("too slow")??;
    let seconds = start.elapsed().as_secs_f64();
    let spans = accepted.len() as u64 * args.spans;
    let numbers = json!({
        "spans": spans,
        "seconds": seconds,
        "accepted_per_s": spans as f64 / seconds,
        "bytes_per_span": bytes as f64 / spans as f64,
        "accepted": Spread::of(accepted),
    });
    println!("{numbers}");
    Ok(())
}

fn prepare(number: usize, args: &Args) -> Vec<Vec<u8>> {
    let mut ids = Ids::new(args.seed << 40 | 1 << 39 | number as u64);
    let batch = |at| {
        let first = ((number * args.batches + at) as u64) * args.spans;
        let trace = |n| trace_id(args.seed, n / args.per_trace.max(1));
        let spans = (first..first + args.spans).map(|n| span(trace(n), &mut ids));
        post(&spans.collect::<Vec<_>>().join(","))
    };
    (0..args.batches).map(batch).collect()
}

fn post(spans: &str) -> Vec<u8> {
    let length = spans.len() + 2;
    format!(
        "POST /api/v2/spans HTTP/1.1\r\nhost: zipkin\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n[{spans}]"
    )
    .into_bytes()
}

/// The call of `Span::new`, with the tags that Envoy's tracer gives it in a mesh.
fn span(trace_id: [u8; 16], ids: &mut Ids) -> String {
    let trace = u128::from_be_bytes(trace_id);
    let (id, parent, request) = (ids.number(), ids.number(), ids.number());
    // Now, as Zipkin sorts and evicts by time.
    let start_us = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
    let duration_us = 1 + ids.number() % 50_000;
    format!(
        "{{\"traceId\":\"{trace:032x}\",\"id\":\"{id:016x}\",\"parentId\":\"{parent:016x}\",\
         \"kind\":\"SERVER\",\"name\":\"reviews.bookinfo.svc.cluster.local:9080/*\",\
         \"timestamp\":{start_us},\"duration\":{duration_us},\
         \"localEndpoint\":{{\"serviceName\":\"reviews.bookinfo\",\"ipv4\":\"10.244.1.18\",\"port\":9080}},\
         \"tags\":{{\"component\":\"proxy\",\"http.method\":\"GET\",\"http.protocol\":\"HTTP/1.1\",\
         \"http.status_code\":\"200\",\
         \"http.url\":\"http://reviews.bookinfo.svc.cluster.local:9080/reviews/0\",\
         \"guid:x-request-id\":\"{request:032x}\",\"upstream_cluster\":\"inbound|9080||\",\
         \"request_size\":\"900\",\"response_size\":\"700\",\"response_flags\":\"-\",\
         \"peer.address\":\"10.244.1.17\",\
         \"node_id\":\"sidecar~10.244.1.18~reviews-v1.bookinfo~bookinfo.svc.cluster.local\"}}}}"
    )
}

/// Time to the acceptance of each batch.
async fn send(mut connection: Connection, posts: Vec<Vec<u8>>) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(posts.len());
    for post in posts {
        let start = Instant::now();
        let answer = connection.exchange(&post).await?;
        if answer.status() != Some(202) {
            bail!("answered {}: {}", answer.start, String::from_utf8_lossy(&answer.body));
        }
        times.push(start.elapsed());
    }
    Ok(times)
}
