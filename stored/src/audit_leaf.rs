//! What the audit log tells of a leaf: the collector writes it, and fsck knows what must be there.

use crate::session::Step;
use meshchain_core::{BatchHeader, BatchKind, BatchLeaf, Source};
use serde_json::{Map, Value, json};

/// Member of a line that is told after a start: a line before it may have told the same.
pub const AGAIN: &str = "again";

/// The event and its members, for each line that leaf `index` takes; most take none.
pub fn told(
    index: u64,
    leaf: &BatchLeaf<'_>,
    header: &BatchHeader<'_>,
    step: &Step,
) -> Vec<(&'static str, Map<String, Value>)> {
    let mut lines = Vec::new();
    let mut tell = |event, members: Value| {
        let Value::Object(rest) = members else { return };
        let mut members = Map::new();
        members.insert("session".to_owned(), hex::encode(header.session).into());
        members.insert("leaf".to_owned(), index.into());
        members.extend(rest);
        lines.push((event, members));
    };
    if step.opens {
        let principal = String::from_utf8_lossy(leaf.principal);
        let mut line = json!({ "source": source(&header.source), "principal": principal });
        if let Some(former) = &header.previous {
            let dropped = former.dropped.iter().fold(0, |sum: u64, d| sum.saturating_add(d.count));
            line["previous"] = json!({
                "session": hex::encode(former.session), "batches": former.batches, "dropped": dropped,
            });
        }
        tell("session_opened", line);
    }
    if let Some(from) = step.gap_from {
        tell("gap", json!({ "from": from, "to": header.seq.saturating_sub(1) }));
    }
    for odd in &step.odd {
        tell("odd", json!({ "odd": odd.to_string() }));
    }
    if header.kind == BatchKind::Close {
        tell("session_closed", json!({ "why": "close" }));
    }
    lines
}

fn source(source: &Source<'_>) -> Value {
    json!({
        "mesh": source.mesh, "cluster": source.cluster, "namespace": source.namespace,
        "workload": source.workload, "pod": source.pod, "revision": source.revision,
        "filter": source.filter,
    })
}
