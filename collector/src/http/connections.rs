//! Who is connected: a bounded table. Where it is full, the connection that deserves its place least goes, so that a
//! new one always finds room.

use super::stall::Moved;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What the program does for a connection at the moment.
#[derive(Debug, Default)]
pub struct State {
    /// It has sent the head of a request at least once.
    asked: AtomicBool,
    /// A request of its is being answered.
    busy: AtomicBool,
}

impl State {
    /// A request's head is there.
    pub fn begin(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
    }

    /// Its answer is ready.
    pub fn end(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }
}

/// One in the table.
#[derive(Debug, Clone)]
pub struct Connection {
    ip: IpAddr,
    /// What is done for it.
    pub state: Arc<State>,
    /// When it last moved.
    pub moved: Moved,
    /// Tells it to go.
    pub go: Arc<Notify>,
}

impl Connection {
    /// A new one.
    pub fn new(ip: IpAddr, moved: Moved) -> Self {
        Self { ip, state: Arc::default(), moved, go: Arc::default() }
    }

    /// How much it deserves its place: one that never asked, or half of it, least; then an idle one; then one
    /// that is served.
    fn class(&self) -> u8 {
        match (self.state.asked.load(Ordering::Relaxed), self.state.busy.load(Ordering::Relaxed)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }
}

/// All connections.
#[derive(Debug, Default)]
pub struct Connections(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Connection>,
}

/// A place in the table, until it is dropped.
#[derive(Debug)]
pub struct Placed {
    table: Arc<Connections>,
    number: u64,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in. Where there were `most`, another one is told to go: of the lowest class, of the address
    /// with most connections, the one that has not moved for longest. Whether that was necessary is told too.
    pub fn place(self: &Arc<Self>, connection: Connection, most: usize) -> (Placed, bool) {
        let mut table = self.lock();
        let evicted = table.all.len() >= most && table.evict();
        let number = table.next;
        table.next += 1;
        table.all.insert(number, connection);
        (Placed { table: self.clone(), number }, evicted)
    }

    /// Sends the one away that deserves its place least; whether there was one.
    pub fn evict(&self) -> bool {
        self.lock().evict()
    }

    /// How many there are.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().all.len()
    }
}

impl Table {
    fn evict(&mut self) -> bool {
        let mut by_ip: HashMap<IpAddr, usize> = HashMap::new();
        for connection in self.all.values() {
            *by_ip.entry(connection.ip).or_default() += 1;
        }
        let rank = |connection: &Connection| {
            let crowd = by_ip.get(&connection.ip).copied().unwrap_or(0);
            (connection.class(), usize::MAX - crowd, connection.moved.at_ms())
        };
        let victim = self.all.iter().min_by_key(|(_, c)| rank(c)).map(|(number, _)| *number);
        let victim = victim.and_then(|number| self.all.remove(&number));
        victim.inspect(|connection| connection.go.notify_one()).is_some()
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.table.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn who_deserves_its_place_least_goes_first() {
        let since = Instant::now();
        let table = Arc::new(Connections::default());
        let (crowd, lone) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut placed = Vec::new();
        let mut enter = async |ip: IpAddr, asked: bool, busy: bool| {
            advance(Duration::from_millis(10)).await;
            let connection = Connection::new(ip, Moved::new(since));
            if asked {
                connection.state.begin();
            }
            if !busy {
                connection.state.end();
            }
            let (place, _) = table.place(connection.clone(), usize::MAX);
            placed.push(place);
            connection
        };
        let served = enter(crowd, true, true).await;
        let idle_alone = enter(lone, true, false).await;
        let idle = [enter(crowd, true, false).await, enter(crowd, true, false).await];
        let half = [enter(crowd, false, false).await, enter(crowd, false, false).await];
        let half_alone = enter(lone, false, false).await;
        let [idle_old, idle_young] = idle;
        let [half_old, half_young] = half;
        for expected in [half_old, half_young, half_alone, idle_old, idle_young, idle_alone, served]
        {
            assert!(table.evict());
            tokio::time::timeout(Duration::from_millis(1), expected.go.notified()).await.unwrap();
        }
        assert!(!table.evict());
        assert_eq!(table.count(), 0);
        drop(placed);
    }

    #[tokio::test]
    async fn no_more_than_the_most_are_in_the_table() {
        let table = Arc::new(Connections::default());
        let moved = Moved::new(Instant::now());
        let places: Vec<_> = (0..10u8)
            .map(|ip| table.place(Connection::new([10, 0, 0, ip].into(), moved.clone()), 4))
            .collect();
        assert_eq!(table.count(), 4);
        assert_eq!(places.iter().filter(|(_, evicted)| *evicted).count(), 6);
        drop(places);
        assert_eq!(table.count(), 0);
    }
}
