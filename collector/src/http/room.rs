//! Memory of bodies that arrive, and of batches that wait for a commit. Room is taken as bytes come, by senders that
//! are known; no sender takes the last of it, and where it is full the slowest body loses what it holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bodies of one sender that arrive at the same time.
const MOST_ARRIVING: usize = 128;
/// Bodies younger than this are not taken for slow, unless their sender holds more than twice what the one has that asks.
const GRACE: Duration = Duration::from_secs(1);
/// Bodies of which not so many bytes came in this time stand still: they lose first, whatever others hold.
const STILL: Duration = Duration::from_millis(500);
const STEP: usize = 32 << 10;
/// The part of all room, a fourth, that is kept for senders that hold no more than as much themselves.
const KEPT: usize = 4;

/// All room.
#[derive(Debug)]
pub struct Rooms {
    total: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    held: usize,
    next: u64,
    senders: HashMap<Arc<str>, Held>,
    bodies: HashMap<u64, Body>,
    /// What became of the last body of each sender, if the sender ended it.
    last: HashMap<Arc<str>, Standing>,
}

/// What is to be expected of a sender's bodies, by its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It broke off, or never came to its end.
    Broken,
    /// Nothing is known.
    Unknown,
    /// It came whole.
    Whole,
}

/// Senders whose last body is remembered.
const MOST_KNOWN: usize = 16_384;

/// What one sender has, as long as it has anything.
#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    bodies: usize,
    arriving: usize,
}

#[derive(Debug)]
struct Body {
    sender: Arc<str>,
    bytes: usize,
    since: Instant,
    /// When it last had a step more, and its bytes then.
    moved: (Instant, usize),
    /// There was no room for it once: that it does not come to its end is not its sender's doing.
    refused: bool,
    state: State,
    lost: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Arriving,
    Lost,
    Whole,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The sender has its share.
    Share,
    /// All room is taken, and no body is slow; or this one was, and others needed its room.
    All,
}

/// Room of one body, until it is dropped.
#[derive(Debug)]
pub struct Room {
    rooms: Arc<Rooms>,
    number: u64,
    lost: Arc<Notify>,
}

impl Rooms {
    /// Room for `total` bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long the oldest of the bodies that are whole has been here: it waits for its commit.
    pub fn oldest_whole(&self) -> Duration {
        let inner = self.lock();
        let whole = inner.bodies.values().filter(|body| body.state == State::Whole);
        whole.map(|body| body.since.elapsed()).max().unwrap_or_default()
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    /// A body of `sender` begins to arrive; it holds nothing yet.
    pub fn enter(self: &Arc<Self>, sender: &str) -> Result<Room, Full> {
        let mut inner = self.lock();
        let known = inner.senders.get_key_value(sender).map(|(sender, _)| sender.clone());
        let sender: Arc<str> = known.unwrap_or_else(|| sender.into());
        let held = inner.senders.entry(sender.clone()).or_default();
        if held.arriving >= MOST_ARRIVING {
            return Err(Full::Share);
        }
        held.arriving += 1;
        held.bodies += 1;
        let number = inner.next;
        inner.next += 1;
        let (since, state, lost) = (Instant::now(), State::Arriving, Arc::new(Notify::new()));
        let (bytes, moved, refused) = (0, (since, 0), false);
        inner.bodies.insert(
            number,
            Body { sender, bytes, since, moved, refused, state, lost: lost.clone() },
        );
        Ok(Room { rooms: self.clone(), number, lost })
    }
}

impl Room {
    /// Takes room for more bytes, if need be from the slowest body.
    pub fn take(&self, bytes: usize) -> Result<(), Full> {
        let mut inner = self.rooms.lock();
        let taken = self.take_of(&mut inner, bytes);
        if let (Err(_), Some(body)) = (taken, inner.bodies.get_mut(&self.number)) {
            body.refused = true;
        }
        taken
    }

    fn take_of(&self, inner: &mut Inner, bytes: usize) -> Result<(), Full> {
        let kept = self.rooms.total / KEPT;
        let heavy = self.rooms.total - kept;
        loop {
            let Some(body) = inner.bodies.get(&self.number) else { return Err(Full::All) };
            if body.state == State::Lost {
                return Err(Full::All);
            }
            let own = inner.senders.get(&body.sender).map_or(0, |held| held.bytes) + bytes;
            if own > heavy {
                return Err(Full::Share);
            }
            let bound = if own <= kept { self.rooms.total } else { heavy };
            if inner.held + bytes <= bound {
                break;
            }
            if !inner.lose_slowest(self.number, own) {
                return Err(Full::All);
            }
        }
        inner.add(self.number, bytes);
        Ok(())
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.rooms.lock().bodies.get(&self.number).map_or(0, |body| body.bytes as u64)
    }

    /// Resolves when it has lost its room to others.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// All bytes are here, and the room cannot be lost any more; false where it was.
    pub fn arrived(&self) -> bool {
        let mut inner = self.rooms.lock();
        let arrived = inner.leave(self.number, State::Whole);
        if arrived {
            inner.note(self.number, Standing::Whole);
        }
        arrived
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut inner = self.rooms.lock();
        let refused = inner.bodies.get(&self.number).is_some_and(|body| body.refused);
        if inner.leave(self.number, State::Lost) && !refused {
            inner.note(self.number, Standing::Broken);
        }
        inner.free(self.number);
        if let Some(body) = inner.bodies.remove(&self.number)
            && let Some(held) = inner.senders.get_mut(&body.sender)
        {
            held.bodies -= 1;
            if held.bodies == 0 {
                inner.senders.remove(&body.sender);
            }
        }
    }
}

impl Inner {
    fn add(&mut self, number: u64, bytes: usize) {
        if let Some(body) = self.bodies.get_mut(&number) {
            body.bytes += bytes;
            if body.bytes - body.moved.1 >= STEP {
                body.moved = (Instant::now(), body.bytes);
            }
            self.held += bytes;
            if let Some(held) = self.senders.get_mut(&body.sender) {
                held.bytes += bytes;
            }
        }
    }

    fn free(&mut self, number: u64) {
        if let Some(body) = self.bodies.get_mut(&number) {
            let bytes = std::mem::take(&mut body.bytes);
            body.moved.1 = 0;
            self.held -= bytes;
            if let Some(held) = self.senders.get_mut(&body.sender) {
                held.bytes -= bytes;
            }
        }
    }

    /// What became of a body that its sender ended.
    fn note(&mut self, number: u64, standing: Standing) {
        let Some(body) = self.bodies.get(&number) else { return };
        if self.last.len() >= MOST_KNOWN && !self.last.contains_key(&body.sender) {
            self.last.clear();
        }
        self.last.insert(body.sender.clone(), standing);
    }

    fn standing(&self, sender: &Arc<str>) -> Standing {
        self.last.get(sender).copied().unwrap_or(Standing::Unknown)
    }

    /// A body arrives no longer; false where that was so before.
    fn leave(&mut self, number: u64, state: State) -> bool {
        let Some(body) = self.bodies.get_mut(&number) else { return false };
        if body.state != State::Arriving {
            return false;
        }
        body.state = state;
        if let Some(held) = self.senders.get_mut(&body.sender) {
            held.arriving -= 1;
        }
        true
    }

    /// Tells the slowest of the arriving bodies that it lost its room: of senders that did not end their last one before
    /// others, of those that stand still before others, of the sender that holds most; not `own`, whose sender will hold
    /// `asks` bytes. Its bytes are counted as free at once: they are, as soon as its task runs.
    fn lose_slowest(&mut self, own: u64, asks: usize) -> bool {
        let now = Instant::now();
        let age = |body: &Body| now.duration_since(body.since);
        let held = |body: &Body| self.senders.get(&body.sender).map_or(0, |held| held.bytes);
        let still = |body: &Body| now.duration_since(body.moved.0) >= STILL;
        let rank = |body: &Body| {
            let speed = body.bytes as u128 * 1000 / age(body).as_millis().max(1);
            (self.standing(&body.sender), !still(body), usize::MAX - held(body), speed)
        };
        let asking =
            self.bodies.get(&own).map_or(Standing::Unknown, |own| self.standing(&own.sender));
        let slow = self.bodies.iter().filter(|(number, body)| {
            let arrives = **number != own && body.state == State::Arriving && body.bytes > 0;
            let standing = self.standing(&body.sender);
            let slow = age(body) >= GRACE || still(body) || held(body) > 2 * asks;
            arrives && (standing < asking || standing == asking && slow)
        });
        let slowest = slow.min_by_key(|(_, body)| rank(body));
        let Some((number, lost)) = slowest.map(|(number, body)| (*number, body.lost.clone()))
        else {
            return false;
        };
        self.leave(number, State::Lost);
        self.free(number);
        lost.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    fn filled(rooms: &Arc<Rooms>, sender: &str, bytes: usize) -> Room {
        let room = rooms.enter(sender).unwrap();
        room.take(bytes).unwrap();
        room
    }

    #[test]
    fn a_sender_that_holds_little_finds_room_whatever_the_others_hold() {
        let rooms = Rooms::new(1000);
        let heavy = filled(&rooms, "heavy", 700);
        assert_eq!(heavy.take(51), Err(Full::Share));
        assert_eq!(heavy.take(50), Ok(()));
        assert!(heavy.arrived(), "it is whole, and loses nothing");
        let second = rooms.enter("second").unwrap();
        assert_eq!(second.take(251), Err(Full::All), "more than a light one's share");
        assert_eq!(second.take(250), Ok(()));
        assert!(second.arrived());
        assert_eq!(rooms.enter("third").unwrap().take(1), Err(Full::All));
        drop(heavy);
        assert_eq!(rooms.held(), 250);
        assert_eq!(second.take(500), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_body_of_the_heaviest_sender_gives_its_room_up() {
        let rooms = Rooms::new(1000);
        // Nothing speaks against any of them.
        assert!(["other", "honest"].iter().all(|name| rooms.enter(name).unwrap().arrived()));
        let whole = filled(&rooms, "evil", 100);
        assert!(whole.arrived());
        let slow = filled(&rooms, "evil", 10);
        let faster = filled(&rooms, "evil", 640);
        let other = filled(&rooms, "other", 250);
        let honest = rooms.enter("honest").unwrap();
        assert_eq!(
            honest.take(376),
            Err(Full::All),
            "none is slow yet, and it would hold half as much"
        );
        advance(GRACE).await;
        assert_eq!(honest.take(5), Ok(()));
        slow.lost().await;
        assert!(!slow.arrived() && slow.take(1) == Err(Full::All), "it holds nothing any more");
        assert_eq!(honest.take(100), Ok(()));
        faster.lost().await;
        assert!(whole.take(0).is_ok() && other.arrived() && honest.arrived());
        assert_eq!(rooms.held(), 100 + 250 + 105);
        drop((whole, slow, faster, other, honest));
        assert_eq!(rooms.held(), 0);
        assert!(rooms.lock().senders.is_empty() && rooms.lock().bodies.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_body_keeps_its_room_among_many_that_never_come_to_their_end() {
        let rooms = Rooms::new(64 << 20);
        let name = |number: usize| number.to_string();
        let mut crowd: Vec<Room> =
            (0..32).map(|number| rooms.enter(&name(number)).unwrap()).collect();
        assert!(rooms.enter("honest").unwrap().arrived(), "as its last one did");
        // 6 MB at 2 MB/s, beside 32 bodies of 2.4 MB that come at once, stand still, and are begun anew.
        let mut whole = 0;
        for _ in 0..10 {
            let honest = rooms.enter("honest").unwrap();
            let came = (0..30).all(|step| {
                for (number, body) in crowd.iter_mut().enumerate() {
                    if body.take(80_000).is_err() || step % 30 == 29 {
                        *body = rooms.enter(&name(number)).unwrap();
                    }
                }
                honest.take(200_000).is_ok()
            });
            whole += usize::from(came && honest.arrived());
            advance(Duration::from_millis(100)).await;
        }
        assert_eq!(whole, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_little_has_room_though_all_bodies_are_young() {
        for crowd in [1, 2, 4, 8, 20] {
            let rooms = Rooms::new(1000);
            let names: Vec<String> = (0..crowd).map(|number| number.to_string()).collect();
            let mut bodies = Vec::new();
            for name in names.iter().cycle() {
                let body = rooms.enter(name).unwrap();
                let full = body.take(10).is_err();
                bodies.push(body);
                if full || bodies.len() > 100 {
                    break;
                }
            }
            let honest = rooms.enter("honest").unwrap();
            for _ in 0..10 {
                assert_eq!(honest.take(1), Ok(()), "{crowd}");
            }
            assert!(honest.arrived());
        }
    }

    #[test]
    fn a_sender_has_a_bound_of_bodies_and_takes_no_others() {
        let rooms = Rooms::new(1000);
        let slow: Vec<_> = (0..MOST_ARRIVING).map(|_| rooms.enter("evil").unwrap()).collect();
        assert_eq!(rooms.enter("evil").err(), Some(Full::Share));
        assert!(rooms.enter("honest").is_ok());
        assert!(slow[0].arrived());
        assert!(rooms.enter("evil").is_ok(), "one has arrived");
    }

    proptest! {
        #[test]
        fn what_is_held_is_the_sum_and_never_more_than_there_is(
            steps in prop::collection::vec((0u8..4, 0usize..6, 0usize..400), 1..200),
        ) {
            let rooms = Rooms::new(1000);
            let mut open: Vec<Room> = Vec::new();
            for (step, which, bytes) in steps {
                match step {
                    0 => open.extend(rooms.enter(&which.to_string())),
                    1 if which < open.len() => drop(open.remove(which)),
                    2 if which < open.len() => drop(open[which].arrived()),
                    _ if which < open.len() => drop(open[which].take(bytes)),
                    _ => {}
                }
                let inner = rooms.lock();
                let sum: usize = inner.bodies.values().map(|body| body.bytes).sum();
                let shares: usize = inner.senders.values().map(|held| held.bytes).sum();
                prop_assert_eq!((inner.held, inner.held), (sum, shares));
                prop_assert!(inner.held <= rooms.total);
                prop_assert!(inner.senders.values().all(|held| held.bytes <= 750));
            }
            open.clear();
            prop_assert_eq!(rooms.held(), 0);
        }
    }
}
