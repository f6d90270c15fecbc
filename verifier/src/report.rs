//! The outcome of a verification, as data. Its JSON form is stable: fields are only ever added.
//!
//! Every string that comes from the evidence has gone through [`crate::shown()`].

use crate::hops::HopVerdict;
use serde::Serialize;

/// Value of [`Report::format`].
pub const REPORT_FORMAT: &str = "meshchain/report/v1";

/// What all steps together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every span is proved, as far as the policy demands. Exit code 0.
    Verified,
    /// Something in the evidence is false. Exit code 1.
    Refuted,
    /// Nothing is false, but something that the verdict needs was not checked. Exit code 2.
    NotChecked,
}

impl Verdict {
    /// Exit code of the program.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Verified => 0,
            Self::Refuted => 1,
            Self::NotChecked => 2,
        }
    }
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Checked, and it holds.
    Ok,
    /// Checked, and it does not hold.
    Refuted,
    /// Not checked: the detail says what is missing.
    NotChecked,
    /// Nothing to check: the record is not disclosed. Does not stand in the way of a verdict.
    NotShown,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `record`, `entry`, `batch`, `signature`, `log`, perhaps `session` of a span; `checkpoint` of a
    /// checkpoint; `anchor`, `block` of an anchor; `history` of any of them, where another one
    /// contradicts it, or nothing ties it to the others.
    pub name: &'static str,
    /// What it came to.
    pub outcome: Outcome,
    /// One line: what holds, what does not, or what is missing.
    pub detail: String,
}

impl Step {
    pub(crate) fn new(name: &'static str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { name, outcome, detail: detail.into() }
    }

    pub(crate) fn unchecked(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Outcome::NotChecked, detail)
    }

    /// `Ok` with its detail, or refuted with the reason.
    pub(crate) fn of(name: &'static str, result: Result<String, String>) -> Self {
        match result {
            Ok(detail) => Self::new(name, Outcome::Ok, detail),
            Err(reason) => Self::new(name, Outcome::Refuted, reason),
        }
    }
}

/// A verification, step by step.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: &'static str,
    /// What all steps together say.
    pub verdict: Verdict,
    /// 0, 1 or 2.
    pub exit_code: u8,
    /// Why the verdict is not `verified`; empty where it is.
    pub reasons: Vec<String>,
    /// Trace id of the file, 32 hex digits; absent where the file could not be read.
    pub trace_id: Option<String>,
    /// Whether a policy was given.
    pub policy: bool,
    /// One per span of the file, in its order.
    pub spans: Vec<SpanReport>,
    /// The different checkpoints in the spans' proofs.
    pub checkpoints: Vec<CheckpointReport>,
    /// One per anchor of the file, in its order.
    pub anchors: Vec<AnchorReport>,
    /// One per hop: what the two sides of a call say of it.
    pub hops: Vec<HopReport>,
    /// Origins of the logs of which this file proves two histories, to whoever has the policy.
    pub two_histories: Vec<String>,
    /// What is proved, and what is not.
    pub conclusions: Conclusions,
}

/// The verdict's four lines: one sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Conclusions {
    /// Whether what is shown is what the log holds.
    pub integrity: String,
    /// Whether something is missing.
    pub completeness: String,
    /// Which calls are seen from both sides.
    pub coverage: String,
    /// What is known about when, and from whom.
    pub time: String,
}

/// One span.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SpanReport {
    /// Position in the file, from 1.
    pub number: usize,
    /// `client`, `server`, `gateway_out` or `gateway_in`; absent where the entry does not parse.
    pub side: Option<&'static str>,
    /// Span id of the hop, 16 hex digits, zeros where no context crossed.
    pub span_id: Option<String>,
    /// Hop digest, hex.
    pub hop_digest: Option<String>,
    /// The hop part, where it is disclosed and fits its digest.
    pub call: Option<Call>,
    /// The own part, where it is disclosed and fits its digest.
    pub own: Option<OwnShown>,
    /// The proxy that reported it, by its own word.
    pub source: Option<SourceShown>,
    /// Session of the batch, hex.
    pub session: Option<String>,
    /// SPIFFE id that delivered the batch, by the collector's word.
    pub principal: Option<String>,
    /// When the collector says it received the batch, unix nanoseconds.
    pub received_ns: Option<u64>,
    /// Calls that the proxy says it dropped until this batch.
    pub dropped: Option<u64>,
    /// Place in the log, where the proof parses.
    pub place: Option<LogPlace>,
    /// An earlier span of the file with the same entry.
    pub duplicate_of: Option<usize>,
    /// `record`, `entry`, `batch`, `signature`, `log`; perhaps `session`, `history`.
    pub steps: Vec<Step>,
}

/// A disclosed hop part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// `:method`.
    pub method: String,
    /// `:authority`.
    pub authority: String,
    /// `:path` without query.
    pub path: String,
    /// 0 where no complete response crossed the wire.
    pub status: u32,
    /// `x-request-id`.
    pub request_id: String,
}

/// The main fields of a disclosed own part: claims of one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnShown {
    /// Parent of the hop's span, hex, where known.
    pub parent_span_id: Option<String>,
    /// Where the context came from: received, generated or none.
    pub context: String,
    /// Start of the request, unix nanoseconds.
    pub start_ns: u64,
    /// Duration, nanoseconds.
    pub duration_ns: u64,
    /// SPIFFE id of the peer, authenticated to the proxy by mTLS.
    pub peer_principal: String,
    /// Protocol.
    pub protocol: String,
    /// gRPC status, where the call was gRPC.
    pub grpc_status: Option<u32>,
    /// Envoy's response flags, a bit field.
    pub response_flags: u64,
    /// Envoy's response code details.
    pub code_details: String,
    /// Bytes of the request.
    pub request_bytes: u64,
    /// Bytes of the response.
    pub response_bytes: u64,
    /// Upstream cluster.
    pub cluster: String,
    /// Route.
    pub route: String,
    /// Upstream attempts, retries included.
    pub attempts: u32,
    /// Query of the target, where the proxy was configured to record it.
    pub query: String,
    /// Path as seen, where it is not the canonical one of the hop part.
    pub raw_path: Option<String>,
    /// Authority as seen, where it is not the canonical one of the hop part.
    pub raw_authority: Option<String>,
    /// Session that the client's proxy named, hex.
    pub peer_session: Option<String>,
}

/// The source of a batch, as its proxy names itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceShown {
    /// Mesh id.
    pub mesh: String,
    /// Cluster id.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: String,
    /// Pod.
    pub pod: String,
    /// Revision of the workload.
    pub revision: String,
    /// Version of the filter.
    pub filter: String,
}

/// A span's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogPlace {
    /// Number of the checkpoint in [`Report::checkpoints`], from 1.
    pub checkpoint: usize,
    /// Leaf index in the log, from 0.
    pub leaf_index: u64,
    /// Index of the entry in its batch, from 0.
    pub entry_index: u64,
}

/// One checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointReport {
    /// From 1.
    pub number: usize,
    /// Origin line; absent where the text is no checkpoint.
    pub origin: Option<String>,
    /// Tree size.
    pub size: Option<u64>,
    /// Root, hex.
    pub root: Option<String>,
    /// Numbers of the anchors that prove this checkpoint, block included.
    pub anchored_by: Vec<usize>,
    /// `checkpoint`, perhaps `history`.
    pub steps: Vec<Step>,
}

/// One anchor.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AnchorReport {
    /// Position in the file, from 1.
    pub number: usize,
    /// Chain id, as the file claims.
    pub chain_id: u64,
    /// Block number.
    pub block_number: Option<u64>,
    /// Block hash, 0x and 64 hex digits.
    pub block_hash: Option<String>,
    /// Block time, unix seconds.
    pub block_time: Option<u64>,
    /// Contract that emitted the event.
    pub contract: Option<String>,
    /// Account that anchored.
    pub sender: Option<String>,
    /// Anchored tree size.
    pub size: Option<u64>,
    /// Numbers of the checkpoints that the anchored tree extends.
    pub covers: Vec<usize>,
    /// `anchor`, `block`, perhaps `history`.
    pub steps: Vec<Step>,
}

/// One hop.
#[derive(Debug, Clone, Serialize)]
pub struct HopReport {
    /// Span id, 16 hex digits.
    pub span_id: String,
    /// Numbers of the spans of the side that sent the request: client, gateway_out.
    pub client: Vec<usize>,
    /// Numbers of the spans of the side that received it: server, gateway_in.
    pub server: Vec<usize>,
    /// Whose each of these spans is.
    pub sides: Vec<HopSideShown>,
    /// What the sides say.
    #[serde(flatten)]
    pub verdict: HopVerdict,
}

/// Whose one side's entry of a hop is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HopSideShown {
    /// Number of the span.
    pub span: usize,
    /// Origin of the log that holds it, where the policy knows the log.
    pub log: Option<String>,
    /// Operator of that log, where the policy names one.
    pub operator: Option<String>,
    /// Session that it came with, hex.
    pub session: Option<String>,
    /// SPIFFE id that delivered it, by the collector's word.
    pub principal: Option<String>,
}

impl Report {
    /// The report on evidence or a policy that could not be read.
    pub fn unreadable(reason: impl Into<String>) -> Self {
        Self {
            format: REPORT_FORMAT,
            verdict: Verdict::NotChecked,
            exit_code: Verdict::NotChecked.exit_code(),
            reasons: vec![reason.into()],
            trace_id: None,
            policy: false,
            spans: Vec::new(),
            checkpoints: Vec::new(),
            anchors: Vec::new(),
            hops: Vec::new(),
            two_histories: Vec::new(),
            conclusions: Conclusions::default(),
        }
    }

    /// All steps, each with the thing it is a step of: `span 1`, `checkpoint 1`, `anchor 1`.
    pub fn steps(&self) -> impl Iterator<Item = (String, &Step)> {
        let spans = self.spans.iter().map(|s| ("span", s.number, &s.steps));
        let checkpoints = self.checkpoints.iter().map(|c| ("checkpoint", c.number, &c.steps));
        let anchors = self.anchors.iter().map(|a| ("anchor", a.number, &a.steps));
        spans.chain(checkpoints).chain(anchors).flat_map(|(kind, number, steps)| {
            steps.iter().map(move |step| (format!("{kind} {number}"), step))
        })
    }
}
