//! Accepting connections: bounded, and each with its time.

use super::connections::{Connection, Connections};
use super::reader::Wire;
use super::stall::{Guarded, Moved};
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_socket_send_buffer_size;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

/// Time for a request's head, counted from the end of the answer before it: so an idle connection ends too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the first request's head.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most connections, where the process may open enough files.
const MOST: usize = 4096;
/// Files that the log needs for itself.
const OTHER_FILES: u64 = 128;
/// Bytes of a request's head: those that Istio makes have some 2 KiB, and with a caller's whole certificate chain in
/// them some 20.
const MOST_HEAD: usize = 32 << 10;
/// Bytes that the system keeps of a connection on its way in, and on its way out: it doubles them, they are nobody's share,
/// and with [`MOST`] connections they are 400 MB.
const SYSTEM_BUFFERS: [u32; 2] = [32 << 10, 16 << 10];
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;
/// Pause after the system gave no connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Most connections at the same time: what the process may open, less what the log needs; three quarters of it where
/// it may open few.
pub fn most_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = allowed.unwrap_or(u64::MAX);
    let most = files.saturating_sub(OTHER_FILES).max(files / 4);
    usize::try_from(most).unwrap_or(MOST).clamp(1, MOST)
}

/// Listens on an address; in a runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Accepted connections have it from here.
    socket.set_recv_buffer_size(SYSTEM_BUFFERS[0])?;
    socket.set_send_buffer_size(SYSTEM_BUFFERS[1])?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `closed`; then connections end with the request that they are in.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<Metrics>,
    mut closed: watch::Receiver<bool>,
) {
    let table = Arc::new(Connections::default());
    let (most, since) = (most_connections(), Instant::now());
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            _ = closed.wait_for(|closed| *closed) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // One that went away before it was accepted concerns nobody; else there are no files left.
                if !is_gone(&error) {
                    log::warn!("cannot accept a connection: {error}");
                    if table.evict() {
                        metrics.connections_evicted.inc();
                    }
                    sleep(PAUSE).await;
                }
                continue;
            }
        };
        let connection = Connection::new(peer.ip(), Moved::new(since));
        let (placed, full) = table.place(connection.clone(), most);
        if full {
            metrics.connections_evicted.inc();
        }
        let serving = one(stream, peer, connection, router.clone(), closed.clone());
        let metrics = metrics.clone();
        open.spawn(async move {
            metrics.connections.inc();
            serving.await;
            metrics.connections.dec();
            drop(placed);
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Lets so many bytes wait in the system on their way out; with 0 as many as at first.
fn keep_back(stream: &TcpStream, bytes: u32) {
    let bytes = if bytes == 0 { SYSTEM_BUFFERS[1] } else { bytes };
    // A longer answer takes longer, and that is all.
    let _ = set_socket_send_buffer_size(stream, bytes as usize);
}

fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection. How it ends is its peer's affair.
async fn one(
    stream: TcpStream,
    peer: SocketAddr,
    connection: Connection,
    router: Router,
    mut closed: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let Connection { state, moved, go, .. } = connection;
    let (first, mut asked) = watch::channel(false);
    let wire = Wire { go: go.clone(), moved: moved.clone() };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(wire.clone());
        first.send_replace(true);
        state.begin();
        let (router, state) = (router.clone(), state.clone());
        async move {
            let answer = router.oneshot(request).await;
            state.end();
            answer
        }
    });
    let io = TokioIo::new(Guarded::new(stream, moved, keep_back));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MOST_HEAD);
    let mut serving = std::pin::pin!(http.serve_connection(io, service));
    let mut unasked = std::pin::pin!(timeout(FIRST_HEAD_TIMEOUT, asked.wait_for(|asked| *asked)));
    let (mut waits, mut closing) = (true, false);
    loop {
        tokio::select! {
            _ = &mut serving => return,
            () = go.notified() => return,
            in_time = &mut unasked, if waits => match in_time {
                Ok(_) => waits = false,
                Err(_) => return,
            },
            _ = closed.wait_for(|closed| *closed), if !closing => {
                serving.as_mut().graceful_shutdown();
                closing = true;
            }
        }
    }
}
