//! A connection that notices its peer: when it last moved, and whether it takes what is written to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// While something waits to be written, a peer takes at least [`LEAST_BYTES`] in this time, or is cut off: what waits is
/// memory that others need.
const WINDOW: Duration = Duration::from_secs(10);
const LEAST_BYTES: usize = 64 << 10;

/// When a connection last moved a byte, in milliseconds after a moment that all share, and what its peer took.
#[derive(Debug, Clone)]
pub struct Moved {
    since: Instant,
    ms: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    kept_back: Arc<AtomicU32>,
}

impl Moved {
    /// It moved now.
    pub fn new(since: Instant) -> Self {
        let (ms, written, kept_back) = Default::default();
        let moved = Self { since, ms, written, kept_back };
        moved.now();
        moved
    }

    fn now(&self) {
        self.ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// So many bytes more were written.
    pub fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.now();
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// So many bytes may wait in the system on their way out, from the next write on; 0: as many as at first.
    pub fn keep_back(&self, bytes: u32) {
        self.kept_back.store(bytes, Ordering::Relaxed);
    }

    /// Milliseconds after the shared moment.
    pub fn at_ms(&self) -> u64 {
        self.ms.load(Ordering::Relaxed)
    }
}

/// Time in which so many bytes must go.
struct Window {
    end: Pin<Box<Sleep>>,
    written: usize,
}

/// A stream that fails with `TimedOut` where its peer does not read.
pub struct Guarded<S> {
    stream: S,
    moved: Moved,
    window: Option<Window>,
    /// Bytes that may wait in the system, as last set by `resize`.
    kept_back: u32,
    resize: fn(&S, u32),
}

impl<S> Guarded<S> {
    /// Watches over `stream`. `resize` sets how many bytes may wait in the system on their way out.
    pub fn new(stream: S, moved: Moved, resize: fn(&S, u32)) -> Self {
        Self { stream, moved, window: None, kept_back: 0, resize }
    }

    fn before_write(&mut self) {
        let wanted = self.moved.kept_back.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.kept_back, wanted) != wanted {
            (self.resize)(&self.stream, wanted);
        }
    }

    fn wrote(
        &mut self,
        result: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(count)) => {
                self.moved.wrote(count);
                if let Some(window) = &mut self.window {
                    window.written += count;
                    if window.written >= LEAST_BYTES {
                        self.window = None;
                    }
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                let end = || Box::pin(sleep_until(Instant::now() + WINDOW));
                let window = self.window.get_or_insert_with(|| Window { end: end(), written: 0 });
                match window.end.as_mut().poll(context) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved.now();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.window = None; // nothing waits
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_cut_off_and_a_slow_one_is_not() {
        let moved = Moved::new(Instant::now());
        let (ours, theirs) = duplex(1 << 10);
        let mut guarded = Guarded::new(ours, moved.clone(), |_, _| {});
        let error = guarded.write_all(&[0; 4 << 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);

        let (ours, mut theirs) = duplex(1 << 10);
        let mut guarded = Guarded::new(ours, moved.clone(), |_, _| {});
        let slow = tokio::spawn(async move {
            let (mut read, mut room) = (0, vec![0; 16 << 10]);
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await; // 10 KiB a second
                match theirs.read(&mut room).await.unwrap() {
                    0 => return read,
                    count => read += count,
                }
            }
        });
        guarded.write_all(&[0; 512 << 10]).await.unwrap();
        guarded.flush().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        guarded.write_all(&[0; 4 << 10]).await.unwrap();
        let before = moved.at_ms();
        drop(guarded);
        assert_eq!(slow.await.unwrap(), 516 << 10);
        assert!(before > 3_600_000, "it moved when it was written to");
    }
}
