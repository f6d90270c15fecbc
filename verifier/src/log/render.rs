//! Reports and leaves as text.

use super::findings::{FsckReport, FsckVerdict, Gap, OddBatch, SignatureCheck};
use super::view::{DropsShown, LeafShown};
use crate::shown::{shown_time, word, word_or_unknown};
use std::fmt::Write;

/// Gaps, and oddities, that the text tells one by one.
const SHOWN_GAPS: usize = 10;

/// The report of a check, for people.
pub fn render_fsck(report: &FsckReport) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &FsckReport) -> std::fmt::Result {
    writeln!(out, "source      {}", report.source)?;
    if let (Some(origin), Some(size), Some(root)) = (&report.origin, report.size, &report.root) {
        writeln!(out, "log         {}", word(origin))?;
        let signed = match &report.signature {
            SignatureCheck::Ok(by) => format!("ok  signed by {by}"),
            SignatureCheck::NotChecked(why) => format!("--  signature not checked: {why}"),
            SignatureCheck::Failed => "NO  not signed as it must be".to_owned(),
        };
        writeln!(out, "checkpoint  {signed}")?;
        let mark = if report.root_recomputed { "ok" } else { "NO" };
        writeln!(out, "tree        {mark}  {size} leaves, root {root}")?;
        writeln!(
            out,
            "read        {} tiles and entry bundles, {} leaves, {} entries",
            report.tiles, report.leaves, report.entries
        )?;
        let (entries, records) = (report.segment_entries, report.segment_records);
        if report.segments > 0 {
            let segments = report.segments;
            writeln!(
                out,
                "segments    {segments}; {entries} entries and {records} records checked"
            )?;
        }
        if report.segments + report.pools == 0 && report.entries_checked > 0 {
            writeln!(out, "entries     {} checked, as they are served", report.entries_checked)?;
        }
        if report.pools > 0 {
            let (pools, entries) = (report.pools, report.entries_checked - entries);
            let records = report.records_checked - records;
            writeln!(out, "pools       {pools}; {entries} entries and {records} records checked")?;
        }
        if report.anchors + report.anchors_on_chain > 0 {
            let (kept, there) = (report.anchors, report.anchors_on_chain);
            let asked =
                if there > 0 { format!("; {there} on chains asked") } else { String::new() };
            writeln!(out, "anchors     {kept} kept, each with its proof{asked}")?;
        }
        let (signed, batches) = (report.signatures_ok, report.leaves);
        writeln!(out, "signatures  {signed} of {batches} batches are signed by their sessions")?;
        let (gaps, missing) = (report.gaps, report.missing_batches);
        writeln!(
            out,
            "sessions    {}; {gaps} gaps, {missing} batches never came",
            report.sessions
        )?;
        for gap in report.gap_list.iter().take(SHOWN_GAPS) {
            let Gap { session, from, to, leaf } = gap;
            writeln!(out, "            gap before leaf {leaf}: seq {from} to {to} of {session}")?;
        }
        if gaps > SHOWN_GAPS as u64 {
            writeln!(out, "            and {} more gaps", gaps - SHOWN_GAPS as u64)?;
        }
    }
    if report.refusals > 0 {
        let (sessions, batches, calls) =
            (report.refusals, report.refused_batches, report.refused_calls);
        writeln!(
            out,
            "refusals    {sessions}, each ended a session; lost by them: {batches} batches, {calls} calls"
        )?;
    }
    for OddBatch { session, leaf, what } in report.oddity_list.iter().take(SHOWN_GAPS) {
        writeln!(out, "odd         leaf {leaf}, session {session}: {what}")?;
    }
    match report.oddities.saturating_sub(SHOWN_GAPS as u64) {
        0 => {}
        more => writeln!(out, "            and {more} more oddities")?,
    }
    for file in &report.repaired {
        writeln!(out, "repaired    {}", word(file))?;
    }
    for note in &report.notes {
        writeln!(out, "note        {note}")?;
    }
    for damage in &report.damages {
        let at = damage.offset.map_or(String::new(), |offset| format!(", byte {offset}"));
        writeln!(out, "DAMAGE      {}{at}: {}", word(&damage.file), damage.fault)?;
        writeln!(out, "            cost: {}", damage.cost)?;
    }
    if report.more_damages > 0 {
        writeln!(out, "            and {} more", report.more_damages)?;
    }
    for what in &report.unchecked {
        writeln!(out, "unchecked   {what}")?;
    }
    let damages = report.damages.len() as u64 + report.more_damages;
    match report.verdict {
        FsckVerdict::Clean => writeln!(out, "\nclean: everything recomputed and equal"),
        FsckVerdict::Damaged if damages == 1 => writeln!(out, "\nDAMAGED: in 1 place"),
        FsckVerdict::Damaged => writeln!(out, "\nDAMAGED: in {damages} places"),
        FsckVerdict::NotChecked => writeln!(out, "\nNOT CHECKED: no damage found, but see above"),
    }
}

/// All of a leaf, for people.
pub fn render_leaf(leaf: &LeafShown) -> String {
    let source = &leaf.source;
    let of = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let drops = |dropped: &[DropsShown]| match dropped {
        [] => "none".to_owned(),
        all => {
            all.iter().map(|d| format!("{} {}", d.count, d.reason)).collect::<Vec<_>>().join(", ")
        }
    };
    let signed = if leaf.signed { "by the session's key" } else { "NOT by the session's key" };
    let lines = [
        ("leaf", leaf.index.to_string()),
        ("leaf hash", leaf.leaf_hash.clone()),
        ("kind", leaf.kind.to_owned()),
        ("mesh", of(&source.mesh)),
        ("cluster", of(&source.cluster)),
        ("namespace", of(&source.namespace)),
        ("workload", of(&source.workload)),
        ("pod", of(&source.pod)),
        ("revision", of(&source.revision)),
        ("filter", of(&source.filter)),
        ("session", leaf.session.clone()),
        ("seq", leaf.seq.to_string()),
        ("entries", leaf.count.to_string()),
        ("dropped", drops(&leaf.dropped)),
        ("first call", shown_time(leaf.first_ns)),
        ("last call", shown_time(leaf.last_ns)),
        ("prev", leaf.prev.clone()),
        ("chain", leaf.chain.clone()),
        ("root", leaf.entries_root.clone()),
        ("principal", of(&leaf.principal)),
        ("received", leaf.received.clone()),
        ("public key", leaf.public_key.clone()),
        ("signature", leaf.signature.clone()),
        ("signed", signed.to_owned()),
    ];
    let previous = leaf.previous.iter().map(|p| {
        let lost = drops(&p.dropped);
        ("follows", format!("session {}, of {} batches; lost: {lost}", p.session, p.batches))
    });
    let notices = leaf.notices.iter().map(|notice| ("notice", notice.clone()));
    lines
        .into_iter()
        .chain(previous)
        .chain(notices)
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect()
}

/// A leaf in one line.
pub fn leaf_line(leaf: &LeafShown) -> String {
    let LeafShown { index, kind, source, session, seq, count, received, .. } = leaf;
    let dropped: u64 = leaf.dropped.iter().fold(0, |sum, d| sum.saturating_add(d.count));
    let dropped = if dropped == 0 { String::new() } else { format!("  dropped {dropped}") };
    let [workload, namespace, cluster] =
        [&source.workload, &source.namespace, &source.cluster].map(|name| word_or_unknown(name));
    format!(
        "{index:>8}  {received:<24}  {kind:<9}  {count:>5} entries  {workload}.{namespace} \
         ({cluster})  session {} seq {seq}{dropped}\n",
        session.get(..8).unwrap_or(session)
    )
}
