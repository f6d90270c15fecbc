//! Output that nobody has to read: a thread of its own writes it, and what it cannot keep up with is dropped.

use prometheus_client::metrics::counter::Counter;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Texts that wait to be written.
const MAX_WAITING: usize = 1024;
/// Pause between two looks at what still waits, at the end.
const LOOK: Duration = Duration::from_millis(2);

/// A way to a writer that never makes anybody wait.
#[derive(Clone)]
pub struct Aside {
    texts: SyncSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    dropped: Counter,
}

impl Aside {
    /// Writes to `out` from a thread of its own; what is dropped is counted in `dropped`.
    pub fn new(mut out: impl Write + Send + 'static, dropped: Counter) -> Self {
        let (texts, received) = sync_channel::<Vec<u8>>(MAX_WAITING);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = waiting.clone();
        let write = move || {
            for text in received {
                // A closed pipe is not our fault.
                let _ = out.write_all(&text).and_then(|()| out.flush());
                left.fetch_sub(1, Ordering::Release);
            }
        };
        // Where there is no thread, the receiver is dropped with it, and each text counts as dropped.
        let _ = std::thread::Builder::new().name("aside".to_owned()).spawn(write);
        Self { texts, waiting, dropped }
    }

    /// Hands a text on, unless too many wait.
    pub fn write(&self, text: Vec<u8>) {
        self.waiting.fetch_add(1, Ordering::Release);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.texts.try_send(text)
        {
            self.waiting.fetch_sub(1, Ordering::Release);
            self.dropped.inc();
        }
    }

    /// Waits until all is written, but not longer than `most`. Blocks: it is for the end of the process.
    pub fn finish(&self, most: Duration) {
        let since = Instant::now();
        while self.waiting.load(Ordering::Acquire) > 0 && since.elapsed() < most {
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_an_output_that_is_not_read() {
        let (reader, stuck) = mpsc::channel();
        let dropped = Counter::default();
        let aside = Aside::new(Stuck(stuck), dropped.clone());
        for _ in 0..MAX_WAITING + 10 {
            aside.write(vec![b'x']);
        }
        assert!((9..=10).contains(&dropped.get()), "{}", dropped.get());
        aside.finish(Duration::from_millis(1));
        drop(reader);
        aside.finish(Duration::from_secs(30));
        assert_eq!(aside.waiting.load(Ordering::Acquire), 0);
    }
}
