//! The steps of one span that need nothing but the file: record, entry, batch, log.

use crate::report::{Call, LogPlace, Outcome, OwnShown, SourceShown, SpanReport, Step};
use crate::shown::{quoted, shown};
use meshchain_core::evidence::{Disclosed, SpanEvidence};
use meshchain_core::session::session_id;
use meshchain_core::{
    BatchHeader, BatchLeaf, Canonical, Checkpoint, Entry, HopPart, OwnPart, TlogProof, TreeHead,
    hop, merkle, own,
};

/// A span's report, with what later steps need of it.
pub(crate) struct CheckedSpan<'a> {
    pub(crate) report: SpanReport,
    pub(crate) entry: Option<Entry>,
    pub(crate) hop: Option<HopPart<'a>>,
    pub(crate) own: Option<OwnPart<'a>>,
    pub(crate) leaf: Option<BatchLeaf<'a>>,
    pub(crate) leaf_bytes: &'a [u8],
}

/// Checks record, entry and batch.
pub(crate) fn check_span<'a>(
    number: usize,
    span: &'a SpanEvidence,
    trace_id: &[u8; 16],
) -> CheckedSpan<'a> {
    let (mut report, leaf_bytes) =
        (SpanReport { number, ..Default::default() }, span.leaf.as_slice());
    let entry = match Entry::parse(&span.entry) {
        Ok(entry) => entry,
        Err(error) => {
            report.steps.push(Step::of("entry", Err(error.to_string())));
            return CheckedSpan {
                report,
                entry: None,
                hop: None,
                own: None,
                leaf: None,
                leaf_bytes,
            };
        }
    };
    report.side = Some(entry.side.name());
    report.span_id = Some(hex::encode(entry.span_id));
    report.hop_digest = Some(hex::encode(entry.hop_digest));
    let (hop, own) = check_record(&span.record, &entry, &mut report);
    let ids = format!("{} side of span {}", entry.side.name(), hex::encode(entry.span_id));
    report.steps.push(Step::of(
        "entry",
        if entry.trace_id == *trace_id {
            Ok(format!("{ids}, in the file's trace"))
        } else {
            Err(format!("of trace {}, not of the file's", hex::encode(entry.trace_id)))
        },
    ));
    let leaf = BatchLeaf::decode(&span.leaf);
    let batch = match &leaf {
        Ok(leaf) => check_batch(span, leaf, &mut report),
        Err(error) => Err(error.to_string()),
    };
    report.steps.push(Step::of("batch", batch));
    report.steps.extend(leaf.as_ref().ok().map(check_signature));
    CheckedSpan { report, entry: Some(entry), hop, own, leaf: leaf.ok(), leaf_bytes }
}

fn check_record<'a>(
    record: &'a Disclosed,
    entry: &Entry,
    report: &mut SpanReport,
) -> (Option<HopPart<'a>>, Option<OwnPart<'a>>) {
    let hop = record.hop.as_deref().map(|bytes| check_hop(bytes, entry)).transpose();
    let own = record.own.as_deref().map(|bytes| check_own(bytes, entry)).transpose();
    let (outcome, detail) = match (&hop, &own) {
        (Err(error), _) | (_, Err(error)) => (Outcome::Refuted, error.clone()),
        (Ok(Some(_)), Ok(Some(_))) => {
            (Outcome::Ok, "hop and own part hash to the entry's digests".to_owned())
        }
        (Ok(Some(_)), Ok(None)) => {
            (Outcome::Ok, "hop part hashes to the entry's digest; own part not shown".to_owned())
        }
        (Ok(None), Ok(Some(_))) => {
            (Outcome::Ok, "own part hashes to the entry's digest; hop part not shown".to_owned())
        }
        (Ok(None), Ok(None)) => {
            (Outcome::NotShown, "neither part of the record is disclosed".to_owned())
        }
    };
    report.steps.push(Step::new("record", outcome, detail));
    let (hop, own) = (hop.ok().flatten(), own.ok().flatten());
    report.call = hop.as_ref().map(show_call);
    report.own = own.as_ref().map(show_own);
    (hop, own)
}

fn check_hop<'a>(bytes: &'a [u8], entry: &Entry) -> Result<HopPart<'a>, String> {
    if hop::hop_digest(bytes) != entry.hop_digest {
        return Err("the hop part does not hash to the entry's hop digest".to_owned());
    }
    let part = HopPart::decode(bytes).map_err(|e| e.to_string())?;
    let trace_id = part.trace_id.map_or([0; 16], |id| id.0);
    let span_id = part.span_id.map_or([0; 8], |id| id.0);
    if (trace_id, span_id) != (entry.trace_id, entry.span_id) {
        return Err("the hop part's ids differ from the entry's".to_owned());
    }
    Ok(part)
}

fn check_own<'a>(bytes: &'a [u8], entry: &Entry) -> Result<OwnPart<'a>, String> {
    if own::span_digest(&entry.hop_digest, bytes) != entry.span_digest {
        return Err("the own part does not hash to the entry's span digest".to_owned());
    }
    let part = OwnPart::decode(bytes).map_err(|e| e.to_string())?;
    if part.side != entry.side {
        return Err("the own part's side differs from the entry's".to_owned());
    }
    Ok(part)
}

fn check_batch(
    span: &SpanEvidence,
    leaf: &BatchLeaf<'_>,
    report: &mut SpanReport,
) -> Result<String, String> {
    let header = leaf.parse_header().map_err(|e| e.to_string())?;
    report.session = Some(hex::encode(header.session));
    report.source = Some(show_source(&header));
    report.principal = (!leaf.principal.is_empty()).then(|| shown(leaf.principal));
    report.received_ns = Some(leaf.received_ns);
    report.dropped =
        Some(header.dropped.iter().fold(0, |sum, dropped| dropped.count.saturating_add(sum)));
    let head = TreeHead { size: header.count.into(), root: leaf.entries_root };
    let index = span.batch.index;
    merkle::verify_inclusion(index, &merkle::leaf_hash(&span.entry), &span.batch.path, &head)
        .map_err(|e| format!("entry {index} of {}: {e}", header.count))?;
    let batch = format!("{} of session {}", header.seq, hex::encode(header.session));
    Ok(format!("entry {index} of {} under the entries root of batch {batch}", header.count))
}

/// Whose word the batch is: the id of a session is a hash of its key.
fn check_signature(leaf: &BatchLeaf<'_>) -> Step {
    let session = hex::encode(session_id(&leaf.public_key));
    let signed = match leaf.signed().verify() {
        Ok(()) => Ok(format!("signed by session {session}")),
        Err(_) => Err(format!("not signed by session {session}, which it says it is of")),
    };
    Step::of("signature", signed)
}

/// Checks the leaf's inclusion in the tree of the checkpoint that stands in its proof.
pub(crate) fn check_log(
    leaf: &[u8],
    proof: &TlogProof,
    checkpoint: &Checkpoint,
    place: LogPlace,
    report: &mut SpanReport,
) {
    let TreeHead { size, .. } = checkpoint.head;
    let found = merkle::verify_inclusion(
        proof.index,
        &merkle::leaf_hash(leaf),
        &proof.path,
        &checkpoint.head,
    );
    let of = format!("leaf {} of {size} in log {}", proof.index, quoted(&checkpoint.origin));
    report.steps.push(Step::of(
        "log",
        match found {
            Ok(()) => Ok(of),
            Err(error) => Err(format!("{of}: {error}")),
        },
    ));
    report.place = Some(place);
}

fn show_call(hop: &HopPart<'_>) -> Call {
    Call {
        method: shown(hop.method),
        authority: shown(hop.authority),
        path: shown(hop.path),
        status: hop.status,
        request_id: shown(hop.request_id),
    }
}

fn show_own(own: &OwnPart<'_>) -> OwnShown {
    OwnShown {
        start_ns: own.start_ns,
        duration_ns: own.duration_ns,
        peer_principal: shown(own.peer_principal),
        parent_span_id: own.parent_span_id.map(|id| hex::encode(id.0)),
        context: own.context.name().to_owned(),
        response_flags: own.response_flags,
        code_details: shown(own.code_details),
        request_bytes: own.request_bytes,
        response_bytes: own.response_bytes,
        cluster: shown(own.cluster),
        route: shown(own.route),
        query: shown(own.query),
        protocol: shown(own.protocol),
        grpc_status: own.grpc_status,
        attempts: own.attempts,
        raw_path: (!own.raw_path.is_empty()).then(|| shown(own.raw_path)),
        raw_authority: (!own.raw_authority.is_empty()).then(|| shown(own.raw_authority)),
        peer_session: own.peer_session.map(hex::encode),
    }
}

/// Where a batch comes from, by its proxy's word.
pub(crate) fn show_source(header: &BatchHeader<'_>) -> SourceShown {
    SourceShown {
        mesh: shown(header.source.mesh),
        cluster: shown(header.source.cluster),
        namespace: shown(header.source.namespace),
        workload: shown(header.source.workload),
        pod: shown(header.source.pod),
        revision: shown(header.source.revision),
        filter: shown(header.source.filter),
    }
}
