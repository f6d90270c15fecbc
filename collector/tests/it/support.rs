//! A collector process, and batches to send to it.

use meshchain_core::{
    BatchHeader, BatchKind, Canonical, ENTRY_LEN, Entry, Hash, HopPart, OwnPart, SessionKey, Side,
    Source, SpanId, SpanRecord, TraceId, hop, own,
};
use meshchain_wire::Batch;
use prost::Message;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

/// A running collector; killed when dropped.
pub(crate) struct Collector {
    child: Child,
    pub(crate) url: String,
    lines: Mutex<mpsc::Receiver<Value>>,
}

impl Collector {
    /// Starts on `data` with extra arguments and waits for the audit line that says so.
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_meshchain-collector")), data, arguments)
    }

    /// Starts one that may open only so many files.
    pub(crate) fn start_with_files(data: &Path, files: u32) -> Self {
        let mut shell = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_meshchain-collector");
        shell.args(["-c", &format!("ulimit -n {files}; exec {program} \"$@\""), "collector"]);
        Self::run(shell, data, &[])
    }

    /// Starts one whose standard output nobody reads, but for the line of its start.
    pub(crate) fn start_unread(data: &Path) -> (Self, BufReader<ChildStdout>) {
        let command = Command::new(env!("CARGO_BIN_EXE_meshchain-collector"));
        let mut child = spawn(command, data, &[]);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut start = String::new();
        stdout.read_line(&mut start).unwrap();
        let start: Value = serde_json::from_str(&start).unwrap();
        let url = format!("http://{}", start["listen"].as_str().unwrap());
        let (_, lines) = mpsc::channel();
        (Self { child, url, lines: Mutex::new(lines) }, stdout)
    }

    pub(crate) fn run(command: Command, data: &Path, arguments: &[&str]) -> Self {
        let mut child = spawn(command, data, arguments);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).unwrap());
            }
        });
        let mut this = Self { child, url: String::new(), lines: Mutex::new(lines) };
        let start = this.audit("start");
        this.url = format!("http://{}", start["listen"].as_str().unwrap());
        this
    }

    /// The next audit line of this event.
    pub(crate) fn audit(&self, event: &str) -> Value {
        loop {
            let line = self
                .lines
                .lock()
                .unwrap()
                .recv_timeout(DEADLINE)
                .unwrap_or_else(|e| panic!("{event}: {e}"));
            if line["event"] == event {
                return line;
            }
        }
    }

    /// POSTs a body: status and answer.
    pub(crate) fn post(&self, body: &[u8]) -> (u16, Value) {
        self.post_with(body, &[])
    }

    pub(crate) fn post_with(&self, body: &[u8], headers: &[(&str, &str)]) -> (u16, Value) {
        self.try_post_with(body, headers).unwrap()
    }

    /// `None` where the connection broke off, as when a long body is turned away before it is sent.
    pub(crate) fn try_post_with(
        &self,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Option<(u16, Value)> {
        let mut request = agent().post(format!("{}/v1/batches", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_json().unwrap()))
    }

    /// GETs a path: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let mut answer = agent().get(format!("{}{path}", self.url)).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
    }

    /// GETs a page: status, body, and the path of the next one.
    pub(crate) fn page(&self, path: &str) -> (u16, Vec<u8>, Option<String>) {
        let mut answer = agent().get(format!("{}{path}", self.url)).call().unwrap();
        let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let next = link.map(|link| {
            let target = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
            target.to_owned()
        });
        let body = answer.body_mut().with_config().limit(32 << 20).read_to_vec().unwrap();
        (answer.status().as_u16(), body, next)
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.text("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub(crate) fn text(&self, path: &str) -> String {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}");
        String::from_utf8(body).unwrap()
    }

    /// Waits until the published tree has `size` leaves.
    pub(crate) fn wait_published(&self, size: u64) {
        wait_until("the leaves are published", || self.size() >= size);
    }

    /// Leaves in the published tree.
    pub(crate) fn size(&self) -> u64 {
        self.text("/checkpoint").lines().nth(1).unwrap().parse().unwrap()
    }

    /// Most memory that it ever held, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit status.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(mut command: Command, data: &Path, arguments: &[&str]) -> Child {
    command.args(["--listen", "127.0.0.1:0", "--data"]).arg(data).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

/// Polls until `done`, or fails after the deadline.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Runs a collector that is expected to end by itself: exit code and standard error.
pub(crate) fn fails(arguments: &[&str]) -> (i32, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_meshchain-collector")).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The key of a session that is made from this seed.
pub(crate) fn key(seed: u8) -> SessionKey {
    SessionKey::from_seed([seed; 32])
}

/// A session that makes batches as a filter does.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) seed: u8,
    pub(crate) id: [u8; 16],
    pub(crate) seq: u64,
    pub(crate) chain: Hash,
}

impl Session {
    pub(crate) fn new(seed: u8) -> Self {
        Self { seed, id: key(seed).id(), seq: 0, chain: [0; 32] }
    }

    /// The next batch, with `count` calls of trace `trace`.
    pub(crate) fn next(&mut self, count: u32, trace: u8) -> Batch {
        let header = BatchHeader {
            kind: if count == 0 { BatchKind::Heartbeat } else { BatchKind::Data },
            source: Source { namespace: "shop", workload: "cart", ..Source::default() },
            session: self.id,
            seq: self.seq,
            count,
            ..BatchHeader::default()
        };
        self.seal(&header, trace)
    }

    pub(crate) fn seal(&mut self, header: &BatchHeader<'_>, trace: u8) -> Batch {
        let (mut entries, mut records) = (Vec::new(), Vec::new());
        for index in 0..header.count {
            let (entry, record) = call(trace, index as u8);
            entries.extend_from_slice(&entry);
            records.push(record);
        }
        let batch = Batch::seal(&key(self.seed), &self.chain, header.encode(), entries, records);
        self.chain = batch.chain.as_slice().try_into().unwrap();
        self.seq += 1;
        batch
    }
}

/// Entry and record of a call.
pub(crate) fn call(trace: u8, index: u8) -> ([u8; ENTRY_LEN], Vec<u8>) {
    let (trace_id, span_id) = (TraceId::new([trace; 16]), SpanId::new([index % 250 + 1; 8]));
    let seen =
        hop::Seen { request_id: b"id", method: b"GET", authority: b"cart", target: b"/items" };
    let mut room = hop::Room::default();
    let hop_part = HopPart::capture(trace_id, span_id, &seen, 200, &mut room);
    let own_part = OwnPart { side: Side::Server, salt: [9; 16], ..OwnPart::default() };
    let (hop, own) = (hop_part.encode(), own_part.encode());
    let hop_digest = hop::hop_digest(&hop);
    let span_digest = own::span_digest(&hop_digest, &own);
    let entry = Entry::new(Side::Server, trace_id, span_id, hop_digest, span_digest);
    let record = SpanRecord { hop: &hop, own: &own, ..SpanRecord::default() };
    (entry.to_bytes(), record.encode())
}

pub(crate) fn body(batch: &Batch) -> Vec<u8> {
    batch.encode_to_vec()
}
