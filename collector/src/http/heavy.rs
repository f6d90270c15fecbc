//! Answers that take time and memory: a few at a time, beside the threads that take batches, and a few for each reader.

use super::reader::Reader;
use super::turns::Turns;
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// Reads at the same time.
const RUNNING: usize = 2;
/// How long a read waits for its turn.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between two looks for an answer that is taken too slowly.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes that the system keeps of a long answer on its way out. Over a long way no more than this is taken in a round trip.
const SEND_BUFFER: u32 = 128 << 10;

/// Turns for heavy reads.
#[derive(Debug, Clone)]
pub struct Heavy {
    running: Arc<Semaphore>,
    turns: Arc<Mutex<Turns>>,
}

impl Default for Heavy {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Heavy {
    /// With so many times the turns: for answers that are as many times shorter.
    pub fn new(times: usize) -> Self {
        let running = Arc::new(Semaphore::new(times * RUNNING));
        Self { running, turns: Arc::new(Mutex::new(Turns::new(times))) }
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
        let (number, told) = self.lock().enter(&reader.name)?;
        let mut waits = Waits { heavy: self.clone(), number, told, name: reader.name.clone() };
        let turn = async {
            let place = waits.turn().await?;
            Some((place, self.running.clone().acquire_owned().await.ok()?))
        };
        let (place, running) = timeout(PATIENCE, turn).await.ok()??;
        let reader = reader.clone();
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
            value.map(|value| {
                // Its time begins when there is something to take.
                place.heavy.lock().sends(place.number, &reader);
                reader.wire.moved.keep_back(SEND_BUFFER);
                Answer { value, place }
            })
        });
        read.await.ok()?
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read that waits for its turn.
struct Waits {
    heavy: Heavy,
    number: u64,
    name: String,
    told: oneshot::Receiver<()>,
}

impl Waits {
    /// Its place; `None` where it is turned away.
    async fn turn(&mut self) -> Option<Place> {
        loop {
            match timeout(LOOK, &mut self.told).await {
                Ok(turn) => turn.ok()?,
                Err(_) => {
                    self.heavy.lock().end_slowest(&self.name);
                    continue;
                }
            }
            let Self { heavy, number, name, .. } = &*self;
            return Some(Place { heavy: heavy.clone(), number: *number, name: name.clone() });
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.told.close();
        let mut turns = self.heavy.lock();
        turns.leave(self.number);
        // It had its turn in the moment when it went.
        if self.told.try_recv().is_ok() {
            turns.free(&self.name);
        }
    }
}

/// A place among the answers that are being sent.
struct Place {
    heavy: Heavy,
    number: u64,
    name: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut turns = self.heavy.lock();
        turns.sent(self.number);
        turns.free(&self.name);
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
    use super::super::reader::Wire;
    use super::super::stall::Moved;
    use super::super::turns::{GRACE, SENT, SENT_TO_ONE, WAITING};
    use super::*;
    use axum::response::IntoResponse;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    fn reader(name: &str) -> Reader {
        let wire = Wire { go: Arc::default(), moved: Moved::new(Instant::now()) };
        Reader { name: name.to_owned(), wire }
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
        assert!(heavy.lock().is_empty(), "nobody is kept");
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

    /// An answer on its way to `name`, whose connection takes so much each second; how long it lasted, where it was cut
    /// off. It has `bytes` in all.
    fn taking(
        heavy: &Heavy,
        name: &str,
        bytes: usize,
        per_second: usize,
    ) -> tokio::task::JoinHandle<Option<Duration>> {
        let (heavy, reader) = (heavy.clone(), reader(name));
        tokio::spawn(async move {
            let answer = heavy.read(&reader, async { "text".into_response() }).await.unwrap();
            let (_held, began) = (answer.into_response(), Instant::now());
            for _ in 0..bytes.div_ceil(per_second) {
                if timeout(Duration::from_secs(1), reader.wire.go.notified()).await.is_ok() {
                    return Some(began.elapsed());
                }
                reader.wire.moved.wrote(per_second);
            }
            None
        })
    }

    const PAGE: usize = 4 << 20;

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_the_slowest_answer_ends_and_none_that_is_taken_well() {
        let heavy = Heavy::default();
        let mut answers = Vec::new();
        for number in 0..SENT {
            let per_second = if number % 4 == 3 { 8_000 + number } else { 70_000 };
            let name = (number / SENT_TO_ONE).to_string();
            answers.push(taking(&heavy, &name, PAGE, per_second));
        }
        tokio::task::yield_now().await;
        for count in 1..=3 {
            let honest = taking(&heavy, &format!("honest {count}"), PAGE, 250_000);
            assert_eq!(honest.await.unwrap(), None, "it is taken well");
            tokio::time::sleep(LOOK).await;
        }
        let mut ended = Vec::new();
        for (number, answer) in answers.into_iter().enumerate() {
            ended.extend(answer.await.unwrap().map(|after| (number, after >= GRACE)));
        }
        assert!(ended.iter().all(|(number, in_time)| number % 4 == 3 && *in_time), "{ended:?}");
        assert!(ended.contains(&(3, true)), "the slowest one: {ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_several_answers_leaves_one_to_whoever_has_none() {
        let heavy = Heavy::default();
        let mut answers = Vec::new();
        for number in 0..SENT {
            answers.push(taking(&heavy, &(number / SENT_TO_ONE).to_string(), PAGE, 75_000));
        }
        tokio::task::yield_now().await;
        let asked = Instant::now();
        assert_eq!(taking(&heavy, "honest", 1_000, 1_000).await.unwrap(), None);
        assert!(asked.elapsed() < PATIENCE);
        let mut ended = 0;
        for answer in answers {
            ended += usize::from(answer.await.unwrap().is_some());
        }
        assert_eq!(ended, 1, "the others are taken to their end");
    }

    #[tokio::test(start_paused = true)]
    async fn readers_behind_one_address_that_take_their_pages_well_all_get_them() {
        let heavy = Heavy::default();
        for per_second in [70_000, 250_000, 1_000_000] {
            for turn in 0..20 {
                let (one, other) = (
                    taking(&heavy, "shared", PAGE, per_second),
                    taking(&heavy, "shared", PAGE, per_second),
                );
                let ended = [one.await.unwrap(), other.await.unwrap()];
                assert_eq!(ended, [None, None], "{per_second} {turn}");
            }
        }
        let slow = taking(&heavy, "shared", PAGE, 60_000);
        let second = taking(&heavy, "shared", PAGE, 70_000);
        tokio::task::yield_now().await;
        assert_eq!(taking(&heavy, "shared", PAGE, 250_000).await.unwrap(), None);
        assert!(slow.await.unwrap().is_some() && second.await.unwrap().is_none());
    }
}
