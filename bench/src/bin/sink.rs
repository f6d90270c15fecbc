//! Stands in for all that Envoy talks to: for what takes receipts, spans or access logs, and for the
//! application. Reads what comes, keeps nothing.

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use meshchain_bench::http::Connection;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// Answers every request, and takes every gRPC stream, until it is killed.
#[derive(Parser)]
struct Args {
    /// Address to listen on for receipts and spans, which it answers with 202
    listen: SocketAddr,
    /// Address to listen on for gRPC
    grpc: SocketAddr,
    /// Address to listen on as the application, which answers with the body it got, or a short one
    application: SocketAddr,
}

/// The application's answer to a request without a body.
const SHORT: &[u8] = b"{\"id\": \"0\", \"reviews\": []}\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen).await?;
    let grpc = TcpListener::bind(args.grpc).await?;
    let application = TcpListener::bind(args.application).await?;
    loop {
        tokio::select! {
            accepted = listener.accept() => serve(drain(accepted?.0)),
            accepted = grpc.accept() => serve(drain_grpc(accepted?.0)),
            accepted = application.accept() => serve(answer(accepted?.0)),
        }
    }
}

fn serve(connection: impl Future<Output = Result<()>> + Send + 'static) {
    tokio::spawn(async {
        if let Err(error) = connection.await {
            eprintln!("connection: {error}");
        }
    });
}

async fn answer(stream: TcpStream) -> Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(request) = connection.receive().await? {
        let body = if request.body.is_empty() { SHORT } else { &request.body };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.send(&[head.as_bytes(), body].concat()).await?;
    }
    Ok(())
}

/// Streams from the client are read to their end, which for access logs never comes.
async fn drain_grpc(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        tokio::spawn(async move {
            let head = http::Response::builder().header("content-type", "application/grpc");
            let mut answer = respond.send_response(head.body(())?, false)?;
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            answer.send_data(Bytes::new(), true)?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

async fn drain(stream: TcpStream) -> Result<()> {
    let mut connection = Connection::new(stream)?;
    while connection.receive().await?.is_some() {
        connection.send(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
    }
    Ok(())
}
