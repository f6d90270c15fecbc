//! The filter's state in one wasm VM, shared by its root contexts and streams.

use crate::attributes::Expressions;
use crate::capture::{Ending, Outcome, RequestPhase};
use crate::config::{Config, parse};
use crate::context::Tracer;
use crate::host::{Host, Level, Post};
use crate::metrics::{Metrics, Other};
use crate::node::Node;
use crate::queue::Queue;
use crate::sender::{Sender, Verdict};
use hashbrown::{HashMap, HashSet};
use meshchain_core::DropReason;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Everything that one VM keeps.
#[derive(Default)]
pub struct Vm {
    /// Root contexts: the filter in one place of the configuration each.
    places: HashSet<u32>,
    expressions: Expressions,
    /// What the request phases of streams that have not ended left.
    phases: HashMap<u32, RequestPhase>,
    /// `None` while the configuration is missing or bad: the filter is off.
    config: Option<Config>,
    notices: Vec<String>,
    session: Option<Session>,
    tracer: Tracer,
    sender: Sender,
    metrics: Metrics,
    other: Other,
    last_seal_ns: Option<u64>,
}

/// Opened at the first call or tick, so that the canary VM, which only runs the configuration, has
/// none.
struct Session {
    queue: Queue,
    random: ChaCha8Rng,
}

impl Session {
    fn open(host: &impl Host) -> Self {
        let mut seed = [0; 32];
        host.random(&mut seed);
        let mut random = ChaCha8Rng::from_seed(seed);
        Self { queue: Queue::new(bytes(&mut random), Node::read(host)), random }
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

impl Vm {
    /// A stream or a place is done. With the last place the session ends: all that waits is sent at once, and
    /// nobody waits for an answer. Envoy may end before that has left it.
    pub fn done(&mut self, host: &impl Host, context: u32) {
        if self.phases.remove(&context).is_some() || !self.places.remove(&context) {
            return;
        }
        let on_its_way = usize::from(self.sender.is_waiting());
        self.sender.forget();
        if !self.places.is_empty() {
            return;
        }
        if let (Some(config), Some(mut session)) = (&self.config, self.session.take()) {
            session.queue.close(host.now_ns());
            for body in session.queue.sealed().skip(on_its_way) {
                host.post(&post(config, body));
            }
        }
        self.push_metrics(host);
        self.metrics = Metrics::default();
    }

    /// Takes the configuration of a place; the tick period that it asks for, in milliseconds. Never fails.
    pub fn configure(&mut self, host: &impl Host, place: u32, json: &[u8]) -> u64 {
        if self.places.insert(place) {
            let expressions = Expressions::create(host);
            let first = self.places.len() == 1;
            self.expressions = if first { expressions } else { self.expressions.also(expressions) };
        }
        self.sender.forget();
        let parsed = parse(json);
        for notice in &parsed.notices {
            host.log(Level::Warn, &format!("meshchain: configuration: {notice}"));
        }
        self.other.config_ignored += parsed.notices.len() as u64;
        self.notices = parsed.notices;
        self.config = match parsed.config {
            Ok(config) => Some(config),
            Err(fault) => {
                host.log(
                    Level::Warn,
                    &format!("meshchain: off, the configuration is bad: {fault}"),
                );
                self.other.config_errors += 1;
                None
            }
        };
        self.config.as_ref().map_or(Config::default().tick_ms, |config| config.tick_ms)
    }

    /// The request phase of a stream.
    pub fn on_request(&mut self, host: &impl Host, stream: u32) {
        let Some(config) = &self.config else {
            return;
        };
        let session = self.session.get_or_insert_with(|| Session::open(host));
        let gateway = session.queue.node().gateway;
        let random = || bytes(&mut session.random);
        let phase = RequestPhase::run(host, config, gateway, self.tracer, random);
        self.phases.insert(stream, phase);
    }

    /// The end of a stream.
    pub fn on_log(&mut self, host: &impl Host, stream: u32) {
        let phase = self.phases.remove(&stream);
        let session = self.session.get_or_insert_with(|| Session::open(host));
        let Some(config) = &self.config else {
            return session.queue.drop_calls(DropReason::Unconfigured, 1);
        };
        let salt = bytes(&mut session.random);
        let queue = &mut session.queue;
        let ending = Ending {
            config,
            gateway: queue.node().gateway,
            expressions: &mut self.expressions,
            tracer: &mut self.tracer,
            queue,
            salt,
        };
        match ending.log(host, phase.as_ref()) {
            Outcome::Call(start_ns) => {
                let queue = &mut session.queue;
                if queue.open_calls() >= config.batch_spans {
                    queue.seal(start_ns, &[]);
                    self.last_seal_ns = Some(start_ns);
                }
            }
            Outcome::Skipped => self.other.skipped += 1,
            Outcome::Unreadable => session.queue.drop_calls(DropReason::Unreadable, 1),
        }
    }

    /// Seals what is open, or a heartbeat where there was silence for long, and sends.
    pub fn on_tick(&mut self, host: &impl Host) {
        if let Some(config) = &self.config {
            let now = host.now_ns();
            let session = self.session.get_or_insert_with(|| Session::open(host));
            let silent_ns = now.saturating_sub(*self.last_seal_ns.get_or_insert(0));
            // While a batch waits, the open one grows: a slow collector gets larger batches, not more.
            let idle = session.queue.front().is_none();
            let heartbeat = silent_ns >= config.heartbeat_s.saturating_mul(1_000_000_000);
            if idle && (session.queue.open_calls() > 0 || heartbeat) {
                session.queue.seal(now, &self.notices);
                self.last_seal_ns = Some(now);
            }
            self.send(host, now);
        }
        self.push_metrics(host);
    }

    /// The answer to a POST.
    pub fn on_response(&mut self, host: &impl Host, token: u32, status: Option<u16>) {
        let now = host.now_ns();
        let Some(session) = &mut self.session else {
            return;
        };
        let [jitter] = bytes(&mut session.random);
        match self.sender.answered(token, status, now, jitter) {
            Some(Verdict::Acknowledged) => session.queue.acknowledge(),
            Some(Verdict::Refused) => {
                session.queue.refuse();
                let status = status.unwrap_or(0);
                let message =
                    format!("meshchain: the collector refused a batch with status {status}");
                host.log(Level::Warn, &message);
            }
            Some(Verdict::Retry) => {
                let asked = status.and_then(|_| host.retry_after_s());
                return self.sender.wait(asked.unwrap_or(0));
            }
            None => return,
        }
        self.send(host, now);
    }

    fn send(&mut self, host: &impl Host, now: u64) {
        let (Some(config), Some(session)) = (&self.config, &mut self.session) else {
            return;
        };
        let Some(body) = session.queue.front().filter(|_| self.sender.ready(now)) else {
            return;
        };
        match host.post(&post(config, body)) {
            Some(token) => self.sender.sent(token, now),
            None => {
                let [jitter] = bytes(&mut session.random);
                self.sender.failed(now, jitter);
            }
        }
    }

    fn push_metrics(&mut self, host: &impl Host) {
        let queue = self.session.as_ref().map(|session| &session.queue);
        let counts = queue.map(Queue::counts).unwrap_or_default();
        let other = Other { retried: self.sender.retried(), ..self.other };
        self.metrics.push(host, &counts, &other, queue.map_or(0, Queue::bytes));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
