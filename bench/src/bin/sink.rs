//! Stands in for a collector or a Zipkin server: reads what Envoy sends, answers 202, keeps nothing.

use anyhow::Result;
use clap::Parser;
use meshchain_bench::http::Connection;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// Answers every request with 202 until it is killed.
#[derive(Parser)]
struct Args {
    /// Address to listen on
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let listener = TcpListener::bind(Args::parse().listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = drain(stream).await {
                eprintln!("connection: {error}");
            }
        });
    }
}

async fn drain(stream: TcpStream) -> Result<()> {
    let mut connection = Connection::new(stream)?;
    while connection.receive().await?.is_some() {
        connection.send(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
    }
    Ok(())
}
