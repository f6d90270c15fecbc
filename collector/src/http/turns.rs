//! Who has a turn: readers that wait, and answers on their way. A place that becomes free goes to whoever holds the
//! fewest, so that no crowd of one reader's shuts another one out.

use super::reader::Reader;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Reads that wait for their turn, and one reader's part of them.
pub(super) const WAITING: usize = 64;
const WAITING_OF_ONE: usize = 8;
/// Answers that are being sent at the same time, and one reader's part of them: each holds some megabytes at most until
/// its reader has taken it.
pub(super) const SENT: usize = 16;
pub(super) const SENT_TO_ONE: usize = 2;
/// Time that an answer has to be taken in any case. Later one that is taken more slowly than [`LEAST_PER_SECOND`] goes
/// where somebody waits for its place: the longest answers, of some megabytes, are taken in a minute or so. Of whoever has
/// several, [`SEVERAL`] times as much is expected where somebody waits who has none.
pub(super) const GRACE: Duration = Duration::from_secs(10);
const LEAST_PER_SECOND: u64 = 64 << 10;
const SEVERAL: u64 = 4;

/// The turns of all readers.
#[derive(Debug)]
pub(super) struct Turns {
    /// So many times the numbers above.
    times: usize,
    /// By name.
    readers: HashMap<String, Share>,
    /// By the number of the read.
    waiting: BTreeMap<u64, Waiting>,
    answers: BTreeMap<u64, Sending>,
    next: u64,
}

/// What a reader has.
#[derive(Debug, Default, Clone, Copy)]
struct Share {
    waits: usize,
    places: usize,
}

#[derive(Debug)]
struct Waiting {
    name: String,
    turn: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Sending {
    since: Instant,
    /// Bytes that its connection had taken before.
    from: u64,
    reader: Reader,
}

impl Sending {
    /// Bytes a second, where it had its time and is taken more slowly than this.
    fn slower_than(&self, least: u64) -> Option<u64> {
        let passed = self.since.elapsed();
        let taken = self.reader.wire.moved.written() - self.from;
        let speed = u64::try_from(u128::from(taken) * 1000 / passed.as_millis().max(1));
        let speed = speed.unwrap_or(u64::MAX);
        (passed >= GRACE && speed < least).then_some(speed)
    }
}

impl Turns {
    /// Nobody waits, nothing is sent.
    pub(super) fn new(times: usize) -> Self {
        Self {
            times,
            readers: HashMap::new(),
            waiting: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 0,
        }
    }

    fn share(&self, name: &str) -> Share {
        self.readers.get(name).copied().unwrap_or_default()
    }

    /// A read of this reader waits from now on: its number, and what tells that it has its turn, or is turned away.
    /// `None` where too many wait.
    pub(super) fn enter(&mut self, name: &str) -> Option<(u64, oneshot::Receiver<()>)> {
        let own = self.share(name);
        if own.waits >= self.times * WAITING_OF_ONE {
            return None;
        }
        if self.waiting.len() >= self.times * WAITING {
            self.make_room_for(own)?;
        }
        let (turn, told) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, Waiting { name: name.to_owned(), turn });
        self.readers.entry(name.to_owned()).or_default().waits += 1;
        self.give();
        Some((number, told))
    }

    /// Turns the last read away of whoever has most, where that is more than the newcomer will have.
    fn make_room_for(&mut self, own: Share) -> Option<()> {
        let all = |share: Share| share.waits + share.places;
        let waits = self.waiting.iter().map(|(number, w)| (all(self.share(&w.name)), *number));
        let (most, number) = waits.max()?;
        (most > all(own) + 1).then(|| self.leave(number))
    }

    /// A read waits no more.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(Waiting { name, .. }) = self.waiting.remove(&number) {
            self.changed(&name, |share| share.waits -= 1);
        }
    }

    /// A reader's place is free.
    pub(super) fn free(&mut self, name: &str) {
        self.changed(name, |share| share.places -= 1);
        self.give();
    }

    fn changed(&mut self, name: &str, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.readers.get_mut(name) {
            change(share);
            if share.waits + share.places == 0 {
                self.readers.remove(name);
            }
        }
    }

    /// Gives free places to those that wait.
    fn give(&mut self) {
        let places = |share: Share| share.places;
        while self.readers.values().map(|share| share.places).sum::<usize>() < self.times * SENT {
            let waits =
                self.waiting.iter().map(|(number, w)| (places(self.share(&w.name)), *number));
            let next = waits.min().filter(|(held, _)| *held < self.times * SENT_TO_ONE);
            let Some((_, number)) = next else { return };
            let Some(Waiting { name, turn }) = self.waiting.remove(&number) else { return };
            let gone = turn.send(()).is_err();
            self.changed(&name, |share| {
                share.waits -= 1;
                share.places += usize::from(!gone);
            });
        }
    }

    /// An answer is on its way.
    pub(super) fn sends(&mut self, number: u64, reader: &Reader) {
        let (since, from) = (Instant::now(), reader.wire.moved.written());
        self.answers.insert(number, Sending { since, from, reader: reader.clone() });
    }

    /// An answer is taken, or its reader is gone.
    pub(super) fn sent(&mut self, number: u64) {
        if let Some(sending) = self.answers.remove(&number) {
            sending.reader.wire.moved.keep_back(0);
        }
    }

    /// For a read that waits: ends the connection of the answer that is taken most slowly, where one is taken too
    /// slowly; of the reader's own ones, where it has its part.
    pub(super) fn end_slowest(&mut self, for_reader: &str) {
        let places = self.share(for_reader).places;
        let own = places >= self.times * SENT_TO_ONE;
        let of = self.answers.iter().filter(|(_, s)| !own || s.reader.name == for_reader);
        let least = |sending: &Sending| match self.share(&sending.reader.name).places {
            several if places == 0 && several > 1 => SEVERAL * LEAST_PER_SECOND,
            _ => LEAST_PER_SECOND,
        };
        let slow = of.filter_map(|(number, s)| Some((s.slower_than(least(s))?, *number)));
        let Some((_, number)) = slow.min() else { return };
        if let Some(sending) = self.answers.remove(&number) {
            sending.reader.wire.go.notify_one();
        }
    }

    /// Whether nobody waits or takes anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.readers.is_empty() && self.waiting.is_empty() && self.answers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oneshot::error::TryRecvError;

    type Told = oneshot::Receiver<()>;

    fn has_turn(told: &mut Told) -> bool {
        told.try_recv().is_ok()
    }

    fn all_of(turns: &mut Turns, name: &str) -> Vec<(u64, Told)> {
        std::iter::from_fn(|| turns.enter(name)).collect()
    }

    #[test]
    fn one_reader_has_its_part_and_whoever_holds_least_is_next() {
        let mut turns = Turns::new(1);
        let mut crowd: Vec<_> = (0..SENT / SENT_TO_ONE)
            .flat_map(|number| all_of(&mut turns, &format!("crowd {number}")))
            .collect();
        let holding = crowd.iter_mut().filter_map(|(_, told)| has_turn(told).then_some(()));
        assert_eq!(holding.count(), SENT, "two of each");
        assert_eq!(crowd.len(), WAITING + SENT, "all places are taken, and all that wait");
        let mut newcomers = Vec::new();
        for number in 0..5 {
            let (_, told) =
                turns.enter(&format!("new {number}")).expect("one of a crowd makes room");
            newcomers.push(told);
        }
        let away = |told: &mut Told| matches!(told.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(turns.waiting.len(), WAITING);
        assert!(crowd.iter_mut().map(|(_, told)| away(told)).filter(|away| *away).count() >= 5);
        for (number, told) in newcomers.iter_mut().enumerate() {
            assert!(!has_turn(told));
            turns.free(&format!("crowd {number}"));
            assert!(has_turn(told), "it comes before those that hold something");
        }
    }

    #[test]
    fn nobody_makes_room_for_one_that_has_as_much() {
        let mut turns = Turns::new(1);
        let mut kept = Vec::new();
        for number in 0..SENT + WAITING {
            kept.push(turns.enter(&number.to_string()).expect("there is room"));
        }
        assert!(turns.enter("one more").is_none());
        assert!(turns.enter("0").is_none());
    }

    #[test]
    fn any_order_of_coming_and_going_leaves_nothing_behind() {
        let mut random = 1_u64;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % below
        };
        let mut turns = Turns::new(1);
        let mut reads: Vec<(String, u64, Told)> = Vec::new();
        for _ in 0..20_000 {
            let name = draw(20).to_string();
            if draw(2) == 0 {
                let entered = turns.enter(&name);
                reads.extend(entered.map(|(number, told)| (name, number, told)));
            } else if !reads.is_empty() {
                let (name, number, mut told) = reads.swap_remove(draw(reads.len()));
                turns.leave(number);
                if has_turn(&mut told) {
                    turns.free(&name);
                }
            }
            let held: usize = turns.readers.values().map(|share| share.places).sum();
            assert!(held <= SENT && turns.waiting.len() <= WAITING);
            assert!(turns.readers.values().all(|share| share.places <= SENT_TO_ONE));
            let waits: usize = turns.readers.values().map(|share| share.waits).sum();
            assert_eq!(waits, turns.waiting.len());
        }
        for (name, number, mut told) in reads {
            turns.leave(number);
            if has_turn(&mut told) {
                turns.free(&name);
            }
        }
        assert!(turns.is_empty(), "{turns:?}");
    }
}
