//! The filter's state in one wasm VM, shared by its root contexts and streams.

use crate::capture::{Ending, Outcome};
use crate::config::Config;
use crate::host::{Host, Level, Post};
use crate::metrics::{Metrics, Other};
use crate::node::Node;
use crate::phase::{RequestPhase, Setting, role_of};
use crate::place::Place;
use crate::queue::Queue;
use crate::request::Request;
use crate::sender::{Sender, Verdict};
use crate::trouble::{Problem, Trouble};
use hashbrown::HashMap;
use meshchain_core::hop::Room;
use meshchain_core::{DropReason, SessionKey};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Everything that one VM keeps.
#[derive(Default)]
pub struct Vm {
    /// Root contexts: the filter in one place of the configuration each.
    places: HashMap<u32, Place>,
    /// The place that sends: the last one with a good configuration. Calls to a collector die with the place
    /// that made them.
    sending: Option<u32>,
    /// Whether records go along: only where no place holds them back.
    records: bool,
    streams: HashMap<u32, Stream>,
    session: Option<Session>,
    /// Calls passed over before there was randomness for a session.
    unseeded: u64,
    sender: Sender,
    trouble: Trouble,
    metrics: Metrics,
    other: Other,
    /// By the monotonic clock.
    last_seal_ns: Option<u64>,
    /// The last stream that ended without a request phase, and when its call began.
    last_bare: Option<(u32, u64)>,
    last_recorded: Option<u32>,
    /// Bytes of requests that have not ended.
    kept_bytes: usize,
    room: Room,
}

/// A stream that has not ended.
struct Stream {
    place: u32,
    /// `None` until there is one, or where the filter is off.
    phase: Option<RequestPhase>,
    met: Met,
}

/// How a request was met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    /// For the first time, or not at all.
    First,
    /// The filter stands more than once in the chain, and met this call as that stream.
    Again(u32),
    /// While open calls took all the memory that they may.
    Full,
}

/// Opened at the first call or tick, so that the canary VM, which only runs the configuration, has
/// none.
struct Session {
    queue: Queue,
    random: ChaCha8Rng,
}

impl Session {
    /// `None` where the host has no randomness: neither ids nor salts would be secret.
    fn open(host: &impl Host) -> Option<Self> {
        let mut seed = [0; 32];
        if !host.random(&mut seed) {
            return None;
        }
        let mut random = ChaCha8Rng::from_seed(seed);
        let key = SessionKey::from_seed(bytes(&mut random));
        Some(Self { queue: Queue::new(key, Node::read(host)), random })
    }

    fn key(&mut self) -> SessionKey {
        SessionKey::from_seed(bytes(&mut self.random))
    }
}

fn bytes<const N: usize>(random: &mut ChaCha8Rng) -> [u8; N] {
    let mut out = [0; N];
    random.fill_bytes(&mut out);
    out
}

fn post<'a>(config: &'a Config, body: &'a [u8]) -> Post<'a> {
    Post {
        cluster: &config.collector_cluster,
        authority: &config.collector_authority,
        path: &config.collector_path,
        body,
    }
}

const HELD_BACK: &str = "payload: one part says digest, so no part sends records";
const TWICE: &str = "the filter stands twice in a chain: apply one manifest";

impl Vm {
    /// A context begins: a stream in a place, or, with `parent` 0, a place.
    pub fn begin(&mut self, context: u32, parent: u32) {
        if parent != 0 {
            let stream = Stream { place: parent, phase: None, met: Met::First };
            self.streams.insert(context, stream);
        }
    }

    /// A stream or a place is done. With the last place the session ends: all that waits is sent at once, what is
    /// in flight too, as its answer may never come; that a batch comes twice does no harm. Nobody waits for the
    /// answers: Envoy lets a VM go that asks to stay.
    pub fn done(&mut self, host: &impl Host, context: u32) {
        if self.take(context).is_some() {
            return;
        }
        let Some(place) = self.places.remove(&context) else {
            return;
        };
        self.sender.forget();
        if !self.places.is_empty() {
            return self.choose_sending();
        }
        if let (Some(config), Some(mut session)) = (&place.config, self.session.take()) {
            session.queue.close(host.now_ns());
            for body in session.queue.sealed() {
                host.post(&post(config, body));
            }
        }
        self.push_metrics(host);
        self.metrics = Metrics::default();
        self.sending = None;
    }

    /// Takes the configuration of a place; the tick period that it asks for, in milliseconds. Never fails.
    pub fn configure(&mut self, host: &impl Host, place: u32, json: &[u8]) -> u64 {
        self.sender.forget();
        let configured = Place::configure(host, json);
        self.other.config_ignored += configured.notices.len() as u64;
        self.other.config_errors += u64::from(configured.config.is_none());
        let tick_ms = configured.config.as_ref().map_or(Config::default().tick_ms, |c| c.tick_ms);
        if configured.config.is_some() {
            self.sending = Some(place);
        }
        self.places.insert(place, configured);
        self.choose_sending();
        tick_ms
    }

    /// Sees to it that the place that sends is one with a good configuration, if there is any.
    fn choose_sending(&mut self) {
        let good = |place: &u32| self.places.get(place).is_some_and(|p| p.config.is_some());
        let newest = || self.places.keys().copied().filter(good).max();
        self.sending = self.sending.filter(good).or_else(newest);
        let mut configs = self.places.values().filter_map(|place| place.config.as_ref());
        self.records = configs.all(|config| config.records);
    }

    /// What the places have to say about their configurations.
    fn notices(&self) -> Vec<String> {
        let mut notices: Vec<String> = Vec::new();
        if self.other.duplicates > 0 {
            notices.push(TWICE.to_owned());
        }
        let mut configs = self.places.values().filter_map(|place| place.config.as_ref());
        if !self.records && configs.any(|config| config.records) {
            notices.push(HELD_BACK.to_owned());
        }
        for notice in self.places.values().flat_map(|place| &place.notices) {
            if notices.len() < MAX_NOTICES && !notices.contains(notice) {
                notices.push(notice.clone());
            }
        }
        notices
    }

    /// The request phase of a stream.
    pub fn on_request(&mut self, host: &impl Host, stream: u32) {
        let Some(place) = self.streams.get(&stream).map(|stream| stream.place) else {
            return;
        };
        let Some(Place { config: Some(config), tracer, .. }) = self.places.get(&place) else {
            return;
        };
        if self.session.is_none() {
            self.session = Session::open(host);
        }
        let Some(Session { queue, random }) = &mut self.session else {
            return;
        };
        let role = role_of(host, config, queue.node().middle);
        let headers = host.request_headers();
        let request = Request::read(&headers);
        let before =
            stream.checked_sub(1).and_then(|before| match self.streams.get(&before)?.met {
                Met::Again(first) => Some(first),
                _ => Some(before),
            });
        let before = before.filter(|before| {
            let phase = self.streams.get(before).and_then(|before| before.phase.as_ref());
            phase.is_some_and(|phase| phase.request.is_alike(&request))
        });
        let twin = before.filter(|before| is_twin(host, stream, *before));
        let setting = Setting { config, role, tracer: *tracer, session: queue.session() };
        let mut run = || RequestPhase::run(host, setting, &headers, &request, || bytes(random));
        let (met, phase) = match twin {
            Some(first) => (Met::Again(first), None),
            None if self.kept_bytes >= MOST_KEPT => (Met::Full, None),
            None => (Met::First, Some(run())),
        };
        self.kept_bytes += phase.as_ref().map_or(0, |phase| phase.request.bytes());
        if let Some(stream) = self.streams.get_mut(&stream) {
            (stream.phase, stream.met) = (phase, met);
        }
    }

    /// Takes a stream out.
    fn take(&mut self, stream: u32) -> Option<Stream> {
        let taken = self.streams.remove(&stream)?;
        let kept = taken.phase.as_ref().map_or(0, |phase| phase.request.bytes());
        self.kept_bytes = self.kept_bytes.saturating_sub(kept);
        Some(taken)
    }

    /// The end of a stream.
    pub fn on_log(&mut self, host: &impl Host, stream: u32) {
        let Some(Stream { place, phase, met }) = self.take(stream) else {
            return;
        };
        if let Met::Again(_) = met {
            return self.met_twice(host);
        }
        if self.session.is_none() {
            self.session = Session::open(host);
        }
        let sending = self.sending.and_then(|sending| self.places.get(&sending)?.config.as_ref());
        let limits = sending.map(|config| (config.queue_bytes, config.batch_spans));
        let Some(Session { queue, random }) = &mut self.session else {
            if self.unseeded == 0 {
                host.log(
                    Level::Warn,
                    "meshchain: no randomness from the host: nothing is recorded",
                );
            }
            self.unseeded += 1;
            return;
        };
        queue.drop_calls(DropReason::NoRandomness, std::mem::take(&mut self.unseeded));
        if met == Met::Full {
            return queue.drop_calls(DropReason::QueueFull, 1);
        }
        let place = self.places.get_mut(&place);
        let (Some(Place { config: Some(config), expressions, tracer, .. }), Some(limits)) =
            (place, limits)
        else {
            // Where another place of the chain is well configured, the call is not lost.
            let alike = |other: u32| {
                let there = self.last_recorded == Some(other)
                    || self.streams.get(&other).is_some_and(|other| other.phase.is_some());
                there && is_twin(host, stream, other)
            };
            if !(stream.checked_sub(1).is_some_and(alike) || alike(stream + 1)) {
                queue.drop_calls(DropReason::Unconfigured, 1);
            }
            return;
        };
        let (queue_bytes, batch_spans) = limits;
        let twin_start_ns =
            self.last_bare.filter(|(last, _)| last.abs_diff(stream) == 1).map(|(_, start)| start);
        let ending = Ending {
            in_full: random.next_u32().checked_rem(config.full_one_in) == Some(0),
            config,
            expressions,
            tracer,
            queue,
            room: &mut self.room,
            salts: [bytes(random), bytes(random)],
            records: self.records,
            queue_bytes,
            twin_start_ns,
        };
        match ending.log(host, phase.as_ref()) {
            Outcome::Call(start_ns) => {
                self.last_bare = phase.is_none().then_some((stream, start_ns));
                self.last_recorded = Some(stream);
                // While a batch waits, the open one grows: a slow collector gets larger batches, not more.
                if queue.is_idle() && queue.open_calls() >= batch_spans {
                    queue.seal(start_ns, &[]);
                    self.last_seal_ns = Some(host.monotonic_ns());
                }
            }
            Outcome::Skipped => self.other.skipped += 1,
            Outcome::Duplicate => {
                self.last_bare = self.last_bare.map(|(_, start_ns)| (stream, start_ns));
                self.met_twice(host);
            }
            Outcome::Unreadable => queue.drop_calls(DropReason::Unreadable, 1),
        }
    }

    fn met_twice(&mut self, host: &impl Host) {
        if self.other.duplicates == 0 {
            host.log(Level::Warn, &format!("meshchain: {TWICE}"));
        }
        self.other.duplicates += 1;
    }

    /// Seals what is open, or a heartbeat where there was silence for long, and sends. Only the place that
    /// sends has a say.
    pub fn on_tick(&mut self, host: &impl Host, place: u32) {
        if self.sending.is_some_and(|sending| sending != place) {
            return;
        }
        if let Some(config) = self.places.get(&place).and_then(|place| place.config.as_ref()) {
            let heartbeat_ns = config.heartbeat_s.saturating_mul(1_000_000_000);
            let now = host.monotonic_ns();
            if self.session.is_none() {
                self.session = Session::open(host);
            }
            let notices = self.notices();
            if let Some(Session { queue, .. }) = &mut self.session {
                queue.drop_calls(DropReason::NoRandomness, std::mem::take(&mut self.unseeded));
                let due = |last: u64| now.saturating_sub(last) >= heartbeat_ns;
                let heartbeat = self.last_seal_ns.is_none_or(due);
                if queue.is_idle() && (queue.open_calls() > 0 || heartbeat) {
                    queue.seal(host.now_ns(), &notices);
                    self.last_seal_ns = Some(now);
                }
            }
            self.send(host, now);
        }
        self.push_metrics(host);
    }

    /// The answer to a POST.
    pub fn on_response(&mut self, host: &impl Host, token: u32, status: Option<u16>) {
        let now = host.monotonic_ns();
        let Some(session) = &mut self.session else {
            return;
        };
        let [jitter] = bytes(&mut session.random);
        let Some(verdict) = self.sender.answered(token, status, now, jitter) else {
            return;
        };
        let refused = || {
            let status = status.unwrap_or(0);
            let message = format!("meshchain: the collector refused a batch with status {status}");
            host.log(Level::Warn, &message);
        };
        match verdict {
            Verdict::Acknowledged => session.queue.acknowledge(),
            Verdict::Refused => {
                refused();
                let key = session.key();
                session.queue.refuse(key);
            }
            Verdict::Disowned => {
                refused();
                let key = session.key();
                return session.queue.renew(key);
            }
            Verdict::Retry => {
                self.trouble.meet(host, status.map_or(Problem::NoAnswer, Problem::Answer));
                let asked = status.and_then(|_| host.retry_after_s());
                return self.sender.wait(asked.unwrap_or(0));
            }
        }
        self.trouble.end(host);
        let full = |config: &Config| session.queue.open_calls() >= config.batch_spans;
        let config = self.sending.and_then(|place| self.places.get(&place)?.config.as_ref());
        if session.queue.is_idle() && config.is_some_and(full) {
            session.queue.seal(host.now_ns(), &[]);
            self.last_seal_ns = Some(now);
        }
        self.send(host, now);
    }

    fn send(&mut self, host: &impl Host, now: u64) {
        let config = self.sending.and_then(|place| self.places.get(&place)?.config.as_ref());
        let (Some(config), Some(session)) = (config, &mut self.session) else {
            return;
        };
        let Some(body) = session.queue.front().filter(|_| self.sender.ready(now)) else {
            return;
        };
        let size = body.len();
        match host.post(&post(config, body)) {
            Some(token) => self.sender.sent(token, now, size),
            None => {
                self.trouble.meet(host, Problem::NoCluster(&config.collector_cluster));
                let [jitter] = bytes(&mut session.random);
                self.sender.failed(now, jitter);
            }
        }
    }

    fn push_metrics(&mut self, host: &impl Host) {
        let queue = self.session.as_ref().map(|session| &session.queue);
        let mut counts = queue.map(Queue::counts).unwrap_or_default();
        if let Some(count) = counts.dropped.get_mut(DropReason::NoRandomness as usize - 1) {
            *count += self.unseeded;
        }
        let (retried, undelivered) = (self.sender.retried(), self.trouble.count());
        let other = Other { retried, undelivered, ..self.other };
        self.metrics.push(host, &counts, &other, queue.map_or(0, Queue::bytes));
    }
}

/// Bytes of requests that have not ended, at most: a caller opens as many as Envoy lets it.
const MOST_KEPT: usize = 64 << 20;

/// Most notices of one header that come from configurations.
const MAX_NOTICES: usize = 12;

/// Whether two streams are one call: the filter stands twice in its chain. Envoy makes the contexts of a chain one
/// after the other, so the numbers are neighbours, and both began at one nanosecond.
fn is_twin(host: &impl Host, stream: u32, before: u32) -> bool {
    let start = || host.property("request\0time");
    let ours = start();
    host.set_effective_context(before);
    let theirs = start();
    host.set_effective_context(stream);
    ours.is_some() && ours == theirs
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
