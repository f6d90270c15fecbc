//! As much HTTP/1.1 as load generators need: messages with a length or in chunks, connections that
//! are kept. Not for use against anything but the parts under test.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest head and largest body that are read, in bytes.
const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 64 << 20;

/// A connection, seen from either end.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A request or a response.
pub struct Message {
    /// Its first line.
    pub start: String,
    /// Its body.
    pub body: Vec<u8>,
    /// What its `Retry-After` says.
    pub retry_after: Option<Duration>,
}

impl Message {
    /// The status, where it is a response.
    pub fn status(&self) -> Option<u16> {
        self.start.split(' ').nth(1)?.parse().ok()
    }
}

impl Connection {
    /// Takes over one end.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Connects to `address`.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    /// Sends a request and waits for its response, which may come before all was sent.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Message> {
        let sent = self.send(request).await;
        match (self.receive().await, sent) {
            (Ok(Some(answer)), _) => Ok(answer),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
            (Ok(None), Ok(())) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message; `None` where the other side closed in between.
    pub async fn receive(&mut self) -> Result<Option<Message>> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Error::new(ErrorKind::InvalidData, "the head is too long"));
            }
            if self.fill().await? == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        self.buffer.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let (mut length, mut chunked, mut retry_after) = (0, false, None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let bad = || Error::new(ErrorKind::InvalidData, "bad content-length");
                length = value.parse().ok().filter(|&n| n <= MAX_BODY).ok_or_else(bad)?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("retry-after") {
                retry_after = value.parse().ok().map(Duration::from_secs);
            }
        }
        let body = if chunked { self.chunks().await? } else { self.take(length).await? };
        Ok(Some(Message { start, body, retry_after }))
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            while find(&self.buffer, b"\r\n").is_none() {
                self.fill_some().await?;
            }
            let end = find(&self.buffer, b"\r\n").unwrap_or_default();
            let line = self.take(end + 2).await?;
            let digits = String::from_utf8_lossy(&line[..end]).into_owned();
            let size = usize::from_str_radix(digits.trim(), 16).ok();
            let size = size.filter(|n| body.len() + n <= MAX_BODY);
            let size = size.ok_or_else(|| Error::new(ErrorKind::InvalidData, "bad chunk"))?;
            let chunk = self.take(size + 2).await?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill_some().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn fill_some(&mut self) -> Result<()> {
        match self.fill().await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        self.buffer.reserve(16 << 10);
        self.stream.read_buf(&mut self.buffer).await
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
