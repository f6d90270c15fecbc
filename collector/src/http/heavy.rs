//! Reads that take time and memory: a few at a time, beside the threads that take batches.

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads at the same time.
const RUNNING: usize = 2;
/// Reads that wait for their turn.
const WAITING: usize = 64;
/// Answers that are being sent at the same time: each holds some megabytes at most until its reader has taken it.
const SENT: usize = 16;

/// Turns for heavy reads.
#[derive(Debug, Clone)]
pub struct Heavy {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    sent: Arc<Semaphore>,
}

impl Default for Heavy {
    fn default() -> Self {
        let turns = |count| Arc::new(Semaphore::new(count));
        Self { running: turns(RUNNING), waiting: turns(WAITING), sent: turns(SENT) }
    }
}

impl Heavy {
    /// Does `read` when it has its turn; `None` where too many wait.
    pub async fn read<R>(&self, read: impl Future<Output = R> + Send + 'static) -> Option<Answer<R>>
    where
        R: Send + 'static,
    {
        let _waiting = self.waiting.clone().try_acquire_owned().ok()?;
        let sending = self.sent.clone().acquire_owned().await.ok()?;
        let _running = self.running.clone().acquire_owned().await.ok()?;
        let runtime = Handle::current();
        let read = tokio::task::spawn_blocking(move || runtime.block_on(read));
        Some(Answer { value: read.await.ok()?, sending })
    }
}

/// What was read, and its place among the answers that are being sent.
pub struct Answer<R> {
    /// What was read.
    pub value: R,
    sending: OwnedSemaphorePermit,
}

impl Answer<Response> {
    /// The response, which holds its place until it is taken, or its reader is gone.
    pub fn into_response(self) -> Response {
        self.value.map(|body| Body::new(Holding { body, _place: self.sending }))
    }
}

struct Holding {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread")]
    async fn so_many_run_so_many_wait_and_the_rest_is_told_at_once() {
        let heavy = Heavy::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reads = (0..WAITING + 40).map(|_| {
            let (heavy, running, most) = (heavy.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let read = async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                heavy.read(read).await.is_some()
            })
        });
        let mut done = 0;
        for read in reads.collect::<Vec<_>>() {
            done += usize::from(read.await.unwrap());
        }
        assert!((WAITING..WAITING + 40).contains(&done), "{done}");
        assert_eq!(most.load(Ordering::SeqCst), RUNNING);
    }

    #[tokio::test]
    async fn an_answer_holds_its_place_until_it_is_gone() {
        let heavy = Heavy::default();
        let mut answers = Vec::new();
        for _ in 0..SENT {
            let answer = heavy.read(async { "text".into_response() }).await.unwrap();
            answers.push(answer.into_response());
        }
        let one_more = heavy.read(async { "text".into_response() });
        let mut one_more = std::pin::pin!(one_more);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut one_more).await.is_err());
        answers.pop();
        assert!(one_more.await.is_some());
    }
}
