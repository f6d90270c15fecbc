//! A report for people: each step on its line, then what is proved and what is not.

use crate::hops::{HopAgreement, SessionNamed, Spread};
use crate::report::{
    AnchorReport, CheckpointReport, Conclusions, HopReport, HopSideShown, Outcome, Report,
    SpanReport, Step, Verdict,
};
use crate::shown::{shown_seconds, shown_time};
use std::fmt::Write;

/// Reasons that are printed; the rest is counted.
const MAX_REASONS: usize = 8;
/// A receive time that is later than the block by more than this is called false; clocks of
/// collectors and block producers differ by seconds.
const CLOCK_SLACK_S: u64 = 60;

/// The report as text, with a newline at its end.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &Report) -> std::fmt::Result {
    if let Some(trace_id) = &report.trace_id {
        let (spans, anchors) = (report.spans.len(), report.anchors.len());
        let counts = format!("{}  {}", counted(spans, "span"), counted(anchors, "anchor"));
        writeln!(out, "evidence  trace {trace_id}  {counts}")?;
    }
    for span in &report.spans {
        write_span(out, span)?;
    }
    for checkpoint in &report.checkpoints {
        write_checkpoint(out, checkpoint, report.checkpoints.len())?;
    }
    for anchor in &report.anchors {
        write_anchor(out, anchor, report.anchors.len())?;
    }
    if report.anchors.is_empty() && report.trace_id.is_some() {
        writeln!(out, "anchor        --  not checked: the file holds none")?;
    }
    report.hops.iter().try_for_each(|hop| write_hop(out, hop))?;
    write_verdict(out, report)
}

fn write_span(out: &mut String, span: &SpanReport) -> std::fmt::Result {
    let side = span.side.unwrap_or("?");
    write!(out, "span {}  {side}", span.number)?;
    match &span.call {
        Some(call) => write!(out, "  {} {} -> {}", call.method, call.path, call.status)?,
        None => write!(out, "  (call not shown)")?,
    }
    if let Some(source) = &span.source {
        write!(out, "  {}.{} ({})", source.workload, source.namespace, source.cluster)?;
    }
    if let Some(earlier) = span.duplicate_of {
        write!(out, "  the same entry as span {earlier}, counted once")?;
    }
    writeln!(out)?;
    for step in &span.steps {
        write_step(out, &format!("  {}", step.name), step)?;
    }
    if let Some(own) = &span.own {
        let took = own.duration_ns as f64 / 1e6;
        let start = shown_time(own.start_ns);
        writeln!(out, "  called          {start}, took {took:.3} ms (claimed by the proxy)")?;
        let seen = [("path", &own.raw_path), ("authority", &own.raw_authority)];
        for (what, raw) in seen {
            if let Some(raw) = raw {
                writeln!(out, "  as seen         {what} \"{raw}\"")?;
            }
        }
        if let Some(session) = &own.peer_session {
            writeln!(out, "  peer            named session {session}")?;
        }
    }
    if let Some(received) = span.received_ns {
        let by = match &span.principal {
            Some(principal) => format!(" from {principal}"),
            None => String::new(),
        };
        let at = shown_time(received);
        writeln!(out, "  received        {at}{by} (claimed by the collector)")?;
    }
    Ok(())
}

fn write_hop(out: &mut String, hop: &HopReport) -> std::fmt::Result {
    let mark = match hop.verdict.agreement {
        HopAgreement::Agree | HopAgreement::AgreeAttempts | HopAgreement::Mirrored => "ok  ",
        HopAgreement::Dispute => "!!  DISPUTE  ",
        HopAgreement::ExtraServerEntry => "??  ",
        HopAgreement::OneSided | HopAgreement::OneProxy => "--  ",
    };
    let all: Vec<_> = hop.client.iter().chain(&hop.server).map(usize::to_string).collect();
    let spans = if all.len() == 1 { "span" } else { "spans" };
    let of = format!("{}  {spans} {}", hop.span_id, all.join(", "));
    writeln!(out, "hop           {mark}{of}: {}", hop.verdict.detail)?;
    let session = match hop.verdict.session {
        SessionNamed::Attested => {
            "the server's record names the session of the client's entry".to_owned()
        }
        SessionNamed::NotNamed => "the server's record names no session of the client's".to_owned(),
        SessionNamed::Other { named } => format!(
            "not attested: the server's record names session {}, which the client's entry does not follow",
            hex::encode(named)
        ),
        SessionNamed::NotShown => String::new(),
    };
    let spread = match hop.verdict.spread.filter(|_| hop.verdict.agrees()) {
        Some(Spread::TwoLogs) => format!("across two logs: {}", keepers(hop)),
        Some(Spread::OneOperator) => format!("by one operator: {}", keepers(hop)),
        Some(Spread::Unknown) => "in logs that the policy does not know".to_owned(),
        None => String::new(),
    };
    let more: Vec<_> = [spread, session].into_iter().filter(|m| !m.is_empty()).collect();
    if more.is_empty() { Ok(()) } else { writeln!(out, "                  {}", more.join("; ")) }
}

/// The logs of a hop's sides, with their operators where the policy names them.
fn keepers(hop: &HopReport) -> String {
    let name = |side: &HopSideShown| {
        let log = side.log.as_deref().unwrap_or("?");
        match &side.operator {
            Some(operator) => format!("{log} ({operator})"),
            None => log.to_owned(),
        }
    };
    let mut names: Vec<_> = hop.sides.iter().map(name).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

fn write_checkpoint(out: &mut String, at: &CheckpointReport, of: usize) -> std::fmt::Result {
    at.steps.iter().try_for_each(|step| write_step(out, &name_of(step, at.number, of), step))
}

fn write_anchor(out: &mut String, anchor: &AnchorReport, of: usize) -> std::fmt::Result {
    let mut steps = anchor.steps.iter();
    steps.try_for_each(|step| write_step(out, &name_of(step, anchor.number, of), step))
}

fn name_of(step: &Step, number: usize, of: usize) -> String {
    if of == 1 { step.name.to_owned() } else { format!("{} {number}", step.name) }
}

fn write_step(out: &mut String, name: &str, step: &Step) -> std::fmt::Result {
    let mark = match step.outcome {
        Outcome::Ok => "ok  ",
        Outcome::Refuted => "NO  refuted: ",
        Outcome::NotChecked => "--  not checked: ",
        Outcome::NotShown => "--  not shown: ",
    };
    writeln!(out, "{name:<13} {mark}{}", step.detail)
}

fn write_verdict(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.trace_id.is_some() {
        let lines = &report.conclusions;
        writeln!(out)?;
        writeln!(out, "integrity     {}", lines.integrity)?;
        writeln!(out, "completeness  {}", lines.completeness)?;
        writeln!(out, "coverage      {}", lines.coverage)?;
        writeln!(out, "time          {}", lines.time)?;
        writeln!(out)?;
    }
    match report.verdict {
        Verdict::Verified => writeln!(out, "verified: {}", verified(report))?,
        Verdict::Refuted => writeln!(out, "REFUTED: the evidence is false")?,
        Verdict::NotChecked => writeln!(out, "NOT VERIFIED: nothing is refuted, but:")?,
    }
    for reason in report.reasons.iter().take(MAX_REASONS) {
        writeln!(out, "  {reason}")?;
    }
    match report.reasons.len().saturating_sub(MAX_REASONS) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn verified(report: &Report) -> String {
    let spans = counted(distinct(report), "span");
    let hold = if distinct(report) == 1 { "stands" } else { "stand" };
    let logs = origins(report);
    match anchoring(report) {
        Some(anchor) => format!(
            "{spans} {hold} unaltered in {logs}, at the latest since block {} of chain {}",
            anchor.block_number.unwrap_or_default(),
            anchor.chain_id
        ),
        None => format!("{spans} {hold} unaltered in {logs}, by the word of its operator alone"),
    }
}

/// The four sentences of a verdict.
pub(crate) fn conclude(report: &Report) -> Conclusions {
    let integrity = match report.verdict {
        Verdict::Verified => {
            let disclosed = report.spans.iter().filter(|s| s.call.is_some() || s.own.is_some());
            format!(
                "proved: {} entered {} as shown; {} of them disclosed",
                counted(distinct(report), "span"),
                origins(report),
                disclosed.count()
            )
        }
        Verdict::Refuted => "refuted".to_owned(),
        Verdict::NotChecked => "not proved: see below".to_owned(),
    };
    let completeness = "not proved: the log may hold more of this trace, and a proxy may have \
                        kept silent"
        .to_owned();
    Conclusions { integrity, completeness, coverage: coverage(report), time: time(report) }
}

fn coverage(report: &Report) -> String {
    let with = |of: HopAgreement| report.hops.iter().filter(|h| h.verdict.agreement == of).count();
    let agreed = |spread| {
        let hops = report.hops.iter().map(|hop| &hop.verdict);
        hops.filter(|verdict| verdict.agrees() && verdict.spread == Some(spread)).count()
    };
    let others = [
        (agreed(Spread::Unknown), "agreed in logs that are not known"),
        (with(HopAgreement::ExtraServerEntry), "with an extra server entry"),
        (with(HopAgreement::OneProxy), "by one proxy alone"),
        (
            report
                .hops
                .iter()
                .filter(|h| h.verdict.pairs == 0 && h.verdict.agreement == HopAgreement::Mirrored)
                .count(),
            "of a copy",
        ),
    ];
    let others = others.iter().filter(|(count, _)| *count > 0);
    let others: String = others.map(|(count, what)| format!(", {count} {what}")).collect();
    let dropped: u64 = report.spans.iter().filter_map(|s| s.dropped).max().unwrap_or(0);
    let dropped = match dropped {
        0 => "no proxy reported a dropped call by then".to_owned(),
        calls => format!("a proxy reported {calls} dropped calls by then"),
    };
    format!(
        "{}: {} agreed across two logs, {} agreed by one operator, {} disputed, {} seen from one \
         side{others}; {dropped}",
        counted(report.hops.len(), "hop"),
        agreed(Spread::TwoLogs),
        agreed(Spread::OneOperator),
        with(HopAgreement::Dispute),
        with(HopAgreement::OneSided)
    )
}

/// The latest block needed to prove all checkpoints is the bound for the whole file.
fn time(report: &Report) -> String {
    let Some(anchor) = anchoring(report).filter(|_| report.verdict != Verdict::Refuted) else {
        return "not proved: all times are claims of proxies and collector".to_owned();
    };
    let (block, at) =
        (anchor.block_number.unwrap_or_default(), anchor.block_time.unwrap_or_default());
    let late = |ns: u64| ns / 1_000_000_000 > at.saturating_add(CLOCK_SLACK_S);
    let late = report.spans.iter().filter_map(|s| s.received_ns).filter(|&ns| late(ns)).count();
    let late = match late {
        0 => String::new(),
        spans => format!(", and that of {} is false", counted(spans, "receipt")),
    };
    format!(
        "existed no later than block {block} of chain {} at {} (proved by the chain); all other \
         times are claims{late}",
        anchor.chain_id,
        shown_seconds(at)
    )
}

/// The anchor that proves the last of the checkpoints; `None` where one is not proved.
fn anchoring(report: &Report) -> Option<&AnchorReport> {
    let earliest = |checkpoint: &CheckpointReport| {
        let by = report.anchors.iter().filter(|a| checkpoint.anchored_by.contains(&a.number));
        by.min_by_key(|a| a.block_time)
    };
    let each: Option<Vec<_>> = report.checkpoints.iter().map(earliest).collect();
    each?.into_iter().max_by_key(|a| a.block_time)
}

fn distinct(report: &Report) -> usize {
    report.spans.iter().filter(|s| s.duplicate_of.is_none()).count()
}

fn origins(report: &Report) -> String {
    let mut names: Vec<_> = report.checkpoints.iter().filter_map(|c| c.origin.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let kind = if names.len() == 1 { "log" } else { "logs" };
    format!("{kind} {}", names.join(", "))
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
