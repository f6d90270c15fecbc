//! The batch header: what a proxy states about a run of entries.

use crate::canonical::{Canonical, Value, exact, put_bytes, put_uint, small};
use crate::session::{BadSignature, KEY_LEN, SessionId, Signature, session_id, verify_handover};

/// Longest name of a source, in bytes (the limit of a DNS name).
pub const MAX_NAME: usize = 253;
/// Most entries in one batch, so that a batch stays below 3 MiB of entries: a proxy has one batch in
/// flight, and a second of a busy worker's calls must fit it.
pub const MAX_ENTRIES: u32 = 32_768;
/// Most drop counters, and most notices, in one header.
pub const MAX_REPEATED: usize = 16;

/// What a batch is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum BatchKind {
    /// It carries entries.
    #[default]
    Data = 1,
    /// It carries nothing: the proof that there was nothing to carry.
    Heartbeat = 2,
    /// The last batch of a session; it may carry entries.
    Close = 3,
}

impl BatchKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Data, Self::Heartbeat, Self::Close];

    /// Lower-case name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Heartbeat => "heartbeat",
            Self::Close => "close",
        }
    }
}

/// The workload that a session of batches comes from, as its proxy knows itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Source<'a> {
    /// Mesh id.
    pub mesh: &'a str,
    /// Cluster id.
    pub cluster: &'a str,
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Workload name.
    pub workload: &'a str,
    /// Pod name.
    pub pod: &'a str,
    /// Revision of the workload, as a canary's.
    pub revision: &'a str,
    /// Version of the filter.
    pub filter: &'a str,
}

/// Why calls are missing from a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// The proxy's queue was full: the collector was away for too long.
    QueueFull = 1,
    /// The collector refused a batch for good.
    Refused = 2,
    /// The call had no readable headers (a malformed request).
    Unreadable = 3,
    /// The filter was off: its configuration was bad.
    Unconfigured = 4,
    /// The host had no randomness: neither a session nor a salt could be drawn.
    NoRandomness = 5,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [Self; 5] =
        [Self::QueueFull, Self::Refused, Self::Unreadable, Self::Unconfigured, Self::NoRandomness];

    /// Lower-case name, as in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Unconfigured => "unconfigured",
            Self::NoRandomness => "no_randomness",
        }
    }
}

/// Calls dropped for one reason since the session began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// A [`DropReason`] as a number; later versions may know more.
    pub reason: u32,
    /// Cumulative count, never 0.
    pub count: u64,
}

/// The session that a proxy had before, which a refusal ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// Its id.
    pub session: SessionId,
    /// Number of batches that it sealed; the last was refused, or never answered.
    pub batches: u64,
    /// What it had dropped in the end, ascending by reason; the calls of refused batches are among it.
    pub dropped: Vec<Dropped>,
    /// Its public key.
    pub public_key: [u8; KEY_LEN],
    /// Its key's signature over the session that follows, see [`Previous::verify`].
    pub signature: Signature,
}

impl Previous {
    /// Checks that the former session's key named `session` as the one that follows it; decoding does not.
    pub fn verify(&self, session: &SessionId) -> Result<(), BadSignature> {
        verify_handover(&self.public_key, session, &self.signature.0)
    }
}

/// What a proxy states about one batch. Drawn in `docs/format.md`, "Batch header".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchHeader<'a> {
    /// What the batch is for.
    pub kind: BatchKind,
    /// Where it comes from.
    pub source: Source<'a>,
    /// Id of the session, a hash of its public key.
    pub session: SessionId,
    /// Position in the session, from 0.
    pub seq: u64,
    /// Number of entries.
    pub count: u32,
    /// What was dropped so far, ascending by reason.
    pub dropped: Vec<Dropped>,
    /// Start of the earliest call, unix nanoseconds; for a batch without calls, the time it was made.
    pub first_ns: u64,
    /// Start of the latest call, unix nanoseconds.
    pub last_ns: u64,
    /// What the proxy has to say about its own configuration ("unknown key tik_ms").
    pub notices: Vec<&'a str>,
    /// The session that this one follows, in each of its batches: calls that began in it name it.
    pub previous: Option<Previous>,
}

const VERSION: u64 = 1;

impl<'a> Canonical<'a> for BatchHeader<'a> {
    const NAME: &'static str = "BatchHeader";
    const REPEATED: &'static [u32] = &[7, 10];

    fn encode_into(&self, out: &mut Vec<u8>) {
        let mut nested = Vec::with_capacity(128);
        put_uint(out, 1, VERSION);
        put_uint(out, 2, self.kind as u64);
        self.source.encode_into(&mut nested);
        put_bytes(out, 3, &nested);
        put_bytes(out, 4, &self.session);
        put_uint(out, 5, self.seq);
        put_uint(out, 6, self.count.into());
        for dropped in &self.dropped {
            nested.clear();
            dropped.encode_into(&mut nested);
            put_bytes(out, 7, &nested);
        }
        put_uint(out, 8, self.first_ns);
        put_uint(out, 9, self.last_ns);
        for notice in &self.notices {
            put_bytes(out, 10, notice.as_bytes());
        }
        if let Some(previous) = &self.previous {
            nested.clear();
            previous.encode_into(&mut nested);
            put_bytes(out, 11, &nested);
        }
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Varint(v)) if v != VERSION => return Err("unknown version"),
            (1, Value::Varint(_)) => {}
            (2, Value::Varint(1)) => self.kind = BatchKind::Data,
            (2, Value::Varint(2)) => self.kind = BatchKind::Heartbeat,
            (2, Value::Varint(3)) => self.kind = BatchKind::Close,
            (2, Value::Varint(_)) => return Err("unknown kind"),
            (3, Value::Bytes(b)) => self.source = Source::decode(b).map_err(|_| "not a source")?,
            (4, Value::Bytes(b)) => self.session = exact(b)?,
            (5, Value::Varint(v)) => self.seq = v,
            (6, Value::Varint(v)) => self.count = small(v)?,
            (7, Value::Bytes(_)) if self.dropped.len() == MAX_REPEATED => {
                return Err("more than 16 drop counters");
            }
            (7, Value::Bytes(b)) => {
                self.dropped.push(Dropped::decode(b).map_err(|_| "not a drop counter")?);
            }
            (8, Value::Varint(v)) => self.first_ns = v,
            (9, Value::Varint(v)) => self.last_ns = v,
            (10, Value::Bytes(_)) if self.notices.len() == MAX_REPEATED => {
                return Err("more than 16 notices");
            }
            (10, Value::Bytes(b)) => self.notices.push(name(b)?),
            (11, Value::Bytes(b)) => {
                self.previous = Some(Previous::decode(b).map_err(|_| "not a former session")?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        if self.session == [0; 16] {
            return Err((4, "missing"));
        }
        if self.count > MAX_ENTRIES {
            return Err((6, "more than 32768 entries"));
        }
        match self.kind {
            BatchKind::Data if self.count == 0 => return Err((6, "data without entries")),
            BatchKind::Heartbeat if self.count > 0 => return Err((6, "heartbeat with entries")),
            _ => {}
        }
        if !ascending(&self.dropped) {
            return Err((7, "drop counters not ascending by reason"));
        }
        if self.first_ns > self.last_ns {
            return Err((9, "ends before it starts"));
        }
        if self.previous.as_ref().is_some_and(|previous| previous.session == self.session) {
            return Err((11, "a session does not follow itself"));
        }
        Ok(())
    }
}

fn ascending(dropped: &[Dropped]) -> bool {
    dropped.windows(2).all(|w| w[0].reason < w[1].reason)
}

impl<'a> Canonical<'a> for Previous {
    const NAME: &'static str = "Previous";
    const REPEATED: &'static [u32] = &[3];

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, &self.session);
        put_uint(out, 2, self.batches);
        let mut nested = Vec::new();
        for dropped in &self.dropped {
            nested.clear();
            dropped.encode_into(&mut nested);
            put_bytes(out, 3, &nested);
        }
        put_bytes(out, 4, &self.public_key);
        put_bytes(out, 5, &self.signature.0);
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Bytes(b)) => self.session = exact(b)?,
            (2, Value::Varint(v)) => self.batches = v,
            (3, Value::Bytes(_)) if self.dropped.len() == MAX_REPEATED => {
                return Err("more than 16 drop counters");
            }
            (3, Value::Bytes(b)) => {
                self.dropped.push(Dropped::decode(b).map_err(|_| "not a drop counter")?);
            }
            (4, Value::Bytes(b)) => self.public_key = exact(b)?,
            (5, Value::Bytes(b)) => self.signature = Signature(exact(b)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        if self.session == SessionId::default() {
            return Err((1, "missing"));
        }
        if session_id(&self.public_key) != self.session {
            return Err((4, "not the key of the session"));
        }
        if !ascending(&self.dropped) {
            return Err((3, "drop counters not ascending by reason"));
        }
        Ok(())
    }
}

impl<'a> Canonical<'a> for Source<'a> {
    const NAME: &'static str = "Source";

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, 1, self.mesh.as_bytes());
        put_bytes(out, 2, self.cluster.as_bytes());
        put_bytes(out, 3, self.namespace.as_bytes());
        put_bytes(out, 4, self.workload.as_bytes());
        put_bytes(out, 5, self.pod.as_bytes());
        put_bytes(out, 6, self.revision.as_bytes());
        put_bytes(out, 7, self.filter.as_bytes());
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        let (slot, Value::Bytes(bytes)) = (
            match tag {
                1 => &mut self.mesh,
                2 => &mut self.cluster,
                3 => &mut self.namespace,
                4 => &mut self.workload,
                5 => &mut self.pod,
                6 => &mut self.revision,
                7 => &mut self.filter,
                _ => return Ok(false),
            },
            value,
        ) else {
            return Ok(false);
        };
        *slot = name(bytes)?;
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        Ok(())
    }
}

impl<'a> Canonical<'a> for Dropped {
    const NAME: &'static str = "Dropped";

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_uint(out, 1, self.reason.into());
        put_uint(out, 2, self.count);
    }

    fn field(&mut self, tag: u32, value: Value<'a>) -> Result<bool, &'static str> {
        match (tag, value) {
            (1, Value::Varint(v)) => self.reason = small(v)?,
            (2, Value::Varint(v)) => self.count = v,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn validate(&self) -> Result<(), (u32, &'static str)> {
        match (self.reason, self.count) {
            (0, _) => Err((1, "missing")),
            (_, 0) => Err((2, "missing")),
            _ => Ok(()),
        }
    }
}

fn name(bytes: &[u8]) -> Result<&str, &'static str> {
    if bytes.len() > MAX_NAME {
        return Err("longer than 253 bytes");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    // Names reach terminals and line-based logs.
    if text.chars().any(char::is_control) { Err("has control characters") } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BatchHeader<'static> {
        BatchHeader {
            session: [1; 16],
            count: 3,
            seq: 4,
            dropped: vec![Dropped { reason: 1, count: 9 }, Dropped { reason: 3, count: 1 }],
            first_ns: 5,
            last_ns: 5,
            notices: vec!["unknown key a", "unknown key b"],
            ..Default::default()
        }
    }

    #[test]
    fn decode_of_encode_is_the_header() {
        let encoded = sample().encode();
        assert_eq!(BatchHeader::decode(&encoded), Ok(sample()));
        let dropped = vec![Dropped { reason: 2, count: 7 }];
        let former = crate::SessionKey::from_seed([2; 32]);
        let previous = Some(Previous {
            session: former.id(),
            batches: 3,
            dropped,
            public_key: *former.public(),
            signature: Signature(former.hand_over(&[1; 16])),
        });
        let later = BatchHeader { previous, ..sample() };
        assert_eq!(BatchHeader::decode(&later.encode()), Ok(later));
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            ("data without entries", BatchHeader { count: 0, ..sample() }),
            ("heartbeat with entries", BatchHeader { kind: BatchKind::Heartbeat, ..sample() }),
            ("no session", BatchHeader { session: [0; 16], ..sample() }),
            ("too many entries", BatchHeader { count: MAX_ENTRIES + 1, ..sample() }),
            ("ends before it starts", BatchHeader { first_ns: 6, ..sample() }),
            (
                "drop counter of nothing",
                BatchHeader { dropped: vec![Dropped { reason: 1, count: 0 }], ..sample() },
            ),
            (
                "reason twice",
                BatchHeader { dropped: vec![Dropped { reason: 1, count: 1 }; 2], ..sample() },
            ),
            (
                "follows itself",
                BatchHeader {
                    previous: Some(Previous { session: [1; 16], ..Previous::default() }),
                    ..sample()
                },
            ),
            ("too many notices", BatchHeader { notices: vec!["x"; 17], ..sample() }),
        ];
        for (name, header) in cases {
            assert!(BatchHeader::decode(&header.encode()).is_err(), "{name} was accepted");
        }
    }
}
