//! Answers that take time and memory: a few at a time, beside the threads that take batches, and a few for each reader.

use super::reader::Reader;
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

/// Reads at the same time.
const RUNNING: usize = 2;
/// Reads that wait for their turn, and how long they do.
const WAITING: usize = 64;
const PATIENCE: Duration = Duration::from_secs(15);
/// Answers that are being sent at the same time: each holds some megabytes at most until its reader has taken it.
const SENT: usize = 16;
/// One reader's part of that, and of what waits.
const SENT_TO_ONE: usize = 2;
const WAITING_OF_ONE: usize = 8;
/// Time that an answer has to be taken in any case. Later it goes where somebody waits for its place.
const GRACE: Duration = Duration::from_secs(10);
/// Time between two looks for such an answer.
const LOOK: Duration = Duration::from_secs(1);

/// Turns for heavy reads.
#[derive(Debug, Clone)]
pub struct Heavy {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    sent: Arc<Semaphore>,
    table: Arc<Mutex<Table>>,
    times: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// By name.
    readers: HashMap<String, Turns>,
    /// Answers on their way, the oldest first.
    answers: BTreeMap<u64, Sending>,
    next: u64,
}

/// A reader that waits for answers, or takes one.
#[derive(Debug)]
struct Turns {
    waiting: Arc<Semaphore>,
    sent: Arc<Semaphore>,
    /// Reads that it has.
    reads: usize,
}

#[derive(Debug)]
struct Sending {
    since: Instant,
    reader: Reader,
}

impl Default for Heavy {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Heavy {
    /// With so many times the turns: for answers that are as many times shorter.
    pub fn new(times: usize) -> Self {
        let turns = |count| Arc::new(Semaphore::new(times * count));
        Self {
            running: turns(RUNNING),
            waiting: turns(WAITING),
            sent: turns(SENT),
            table: Arc::default(),
            times,
        }
    }

    /// Does `read` for a reader when it has its turn; `None` where too many wait, or it waits too long.
    pub(super) async fn read<R>(
        &self,
        reader: &Reader,
        read: impl Future<Output = R> + Send + 'static,
    ) -> Option<Answer<R>>
    where
        R: Send + 'static,
    {
        let known = self.enter(&reader.name);
        let _waits = known.waiting.clone().try_acquire_owned().ok()?;
        let _waiting = self.waiting.clone().try_acquire_owned().ok()?;
        let turn = async {
            let own = self.turn(known.sent.clone(), Some(&reader.name)).await?;
            let sending = self.turn(self.sent.clone(), None).await?;
            let running = self.running.clone().acquire_owned().await.ok()?;
            Some((own, sending, running))
        };
        let (own, sending, running) = timeout(PATIENCE, turn).await.ok()??;
        let place = Place { _turns: [own, sending], number: self.note(reader), known };
        let runtime = Handle::current();
        let (_waits_for_it, gone) = oneshot::channel::<()>();
        // It has its turn until it ends, and ends at its next step where its reader is gone.
        let read = tokio::task::spawn_blocking(move || {
            let _running = running;
            let value = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = gone => None,
                    value = read => Some(value),
                }
            });
            value.map(|value| Answer { value, place })
        });
        read.await.ok()?
    }

    /// A turn, if need be that of the oldest answer (of a reader's).
    async fn turn(&self, turns: Arc<Semaphore>, of: Option<&str>) -> Option<OwnedSemaphorePermit> {
        let mut turn = std::pin::pin!(turns.acquire_owned());
        loop {
            match timeout(LOOK, &mut turn).await {
                Ok(turn) => return turn.ok(),
                Err(_) => self.lock().end_oldest(of),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, name: &str) -> Known {
        let mut table = self.lock();
        let turns = |count| Arc::new(Semaphore::new(self.times * count));
        let new = || Turns { waiting: turns(WAITING_OF_ONE), sent: turns(SENT_TO_ONE), reads: 0 };
        let reader = table.readers.entry(name.to_owned()).or_insert_with(new);
        reader.reads += 1;
        let (waiting, sent) = (reader.waiting.clone(), reader.sent.clone());
        Known { heavy: self.clone(), name: name.to_owned(), waiting, sent }
    }

    fn note(&self, reader: &Reader) -> u64 {
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.answers.insert(number, Sending { since: Instant::now(), reader: reader.clone() });
        number
    }
}

impl Table {
    /// Ends the connection of the oldest answer (to a reader), where it has had its time.
    fn end_oldest(&mut self, of: Option<&str>) {
        let late = |sending: &Sending| {
            of.is_none_or(|name| sending.reader.name == name) && sending.since.elapsed() >= GRACE
        };
        let oldest = self.answers.iter().find(|(_, sending)| late(sending));
        let Some(number) = oldest.map(|(number, _)| *number) else { return };
        if let Some(sending) = self.answers.remove(&number) {
            sending.reader.leave.0.notify_one();
        }
    }
}

/// A reader, as long as it waits or takes something.
#[derive(Debug)]
struct Known {
    heavy: Heavy,
    name: String,
    waiting: Arc<Semaphore>,
    sent: Arc<Semaphore>,
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut table = self.heavy.lock();
        if let Some(reader) = table.readers.get_mut(&self.name) {
            reader.reads -= 1;
            if reader.reads == 0 {
                table.readers.remove(&self.name);
            }
        }
    }
}

/// A place among the answers that are being sent.
#[derive(Debug)]
struct Place {
    _turns: [OwnedSemaphorePermit; 2],
    number: u64,
    known: Known,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.known.heavy.lock().answers.remove(&self.number);
    }
}

/// What was read, and its place among the answers that are being sent.
pub struct Answer<R> {
    /// What was read.
    pub value: R,
    place: Place,
}

impl Answer<Response> {
    /// The response, which holds its place until it is taken, or its reader is gone.
    pub fn into_response(self) -> Response {
        self.value.map(|body| Body::new(Holding { body, _place: self.place }))
    }
}

struct Holding {
    body: Body,
    _place: Place,
}

/// Its end is told only by the last poll: a body that says before that it has ended is dropped, and its place with it,
/// while what it gave is not sent yet.
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
    use super::super::reader::Leave;
    use super::*;
    use axum::response::IntoResponse;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn reader(name: &str) -> Reader {
        Reader { name: name.to_owned(), leave: Leave::default() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn so_many_run_so_many_wait_and_the_rest_is_told_at_once() {
        let heavy = Heavy::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reads = (0..WAITING + 40).map(|number| {
            let (heavy, running, most) = (heavy.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let read = async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                heavy.read(&reader(&number.to_string()), read).await.is_some()
            })
        });
        let mut done = 0;
        for read in reads.collect::<Vec<_>>() {
            done += usize::from(read.await.unwrap());
        }
        assert!((WAITING..WAITING + 40).contains(&done), "{done}");
        assert_eq!(most.load(Ordering::SeqCst), RUNNING);
        assert!(heavy.lock().readers.is_empty(), "nobody is kept");
    }

    #[tokio::test]
    async fn a_read_whose_reader_is_gone_keeps_its_turn_and_ends_at_its_next_step() {
        let heavy = Heavy::default();
        let (steps, ended) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        for number in 0..RUNNING {
            let (steps, count) = (steps.clone(), Counted(ended.clone()));
            let read = async move {
                let _count = count;
                steps.acquire().await.unwrap().forget();
                std::future::pending::<()>().await;
            };
            let name = number.to_string();
            let reader = reader(&name);
            let leaving = timeout(Duration::from_millis(20), heavy.read(&reader, read));
            assert!(leaving.await.is_err(), "it is at work");
        }
        let next = reader("next");
        let next = timeout(Duration::from_secs(20), heavy.read(&next, async {})).await;
        assert!(matches!(next, Ok(Some(_))));
        assert!(ended.load(Ordering::SeqCst) > 0, "one of those that nobody waits for has ended");
    }

    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn an_answer_holds_its_place_until_it_is_gone() {
        let heavy = Heavy::default();
        let mut answers = Vec::new();
        for number in 0..SENT {
            let read = async { "text".into_response() };
            let answer = heavy.read(&reader(&number.to_string()), read).await.unwrap();
            answers.push(answer.into_response());
        }
        let other = reader("one more");
        let mut one_more = std::pin::pin!(heavy.read(&other, async { "text".into_response() }));
        assert!(timeout(Duration::from_millis(20), &mut one_more).await.is_err());
        answers.pop();
        assert!(one_more.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_reader_takes_its_part_and_another_has_its_turn_at_once() {
        let heavy = Heavy::default();
        let greedy = (0..WAITING).map(|_| {
            let heavy = heavy.clone();
            tokio::spawn(async move {
                let answer = heavy.read(&reader("greedy"), async { "text".into_response() }).await;
                match answer {
                    Some(answer) => {
                        let held = answer.into_response();
                        tokio::time::sleep(6 * PATIENCE).await;
                        drop(held);
                        true
                    }
                    None => false,
                }
            })
        });
        let greedy: Vec<_> = greedy.collect();
        tokio::task::yield_now().await;
        let other = reader("other");
        let other = timeout(PATIENCE / 2, heavy.read(&other, async { "text".into_response() }));
        assert!(matches!(other.await, Ok(Some(_))));
        let mut taken = 0;
        for read in greedy {
            taken += usize::from(read.await.unwrap());
        }
        assert_eq!(taken, SENT_TO_ONE, "the others waited too long, or were told at once");
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_the_oldest_answer_ends_and_no_younger_one() {
        let heavy = Heavy::default();
        let mut slow = Vec::new();
        for number in 0..SENT {
            let reader = reader(&format!("slow {}", number / SENT_TO_ONE));
            let answer = heavy.read(&reader, async { "text".into_response() }).await.unwrap();
            // As its connection does.
            let (leave, held) = (reader.leave.clone(), answer.into_response());
            slow.push(tokio::spawn(async move {
                leave.0.notified().await;
                drop(held);
            }));
            tokio::time::sleep(LOOK).await;
        }
        for count in 1..=3 {
            let honest = reader("honest");
            let read = heavy.read(&honest, async { "text".into_response() });
            let answer = timeout(PATIENCE, read).await.unwrap().unwrap();
            assert_eq!(slow.iter().filter(|slow| slow.is_finished()).count(), count);
            assert!(slow[..count].iter().all(|slow| slow.is_finished()), "the oldest ones");
            tokio::spawn(async move {
                let _taken = answer;
                std::future::pending::<()>().await;
            });
            if count >= SENT_TO_ONE {
                break;
            }
        }
    }
}
