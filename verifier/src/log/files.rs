//! The files of a directory that the recomputed tree does not need: older partial tiles, which must
//! still be right, and what does not belong there.

use super::findings::{Damage, FsckReport};
use super::source::{LogSource, SourceError};
use super::tiles::fetch;
use crate::shown::quoted;
use meshchain_core::Checkpoint;
use meshchain_core::note::MAX_NOTE;
use meshchain_core::tile::{TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_stored::audit_line::rotated_number;

/// Folders below the log: level, up to six index elements of three digits, `NNN.p`.
const MAX_DEPTH: usize = 9;
/// What a collector keeps beside the log. `key` is never read.
const BESIDE: [&str; 8] =
    ["head", "checkpoint", "sealed", "key", "key.unfinished", "audit.jsonl", "lock", "reserve"];
/// Folders that are looked at elsewhere.
const FOLDERS: [&str; 7] = ["tile", "pool", "segment", "sessions", "anchor", "audit", "spare"];

/// Whether the root folder is a collector's data directory, not a copy of what a log publishes.
pub(crate) fn of_collector(source: &dyn LogSource) -> Result<bool, SourceError> {
    let items = source.list("")?.unwrap_or_default();
    let own = |name: &str| {
        ["pool", "segment"].contains(&name) || (name != "checkpoint" && BESIDE.contains(&name))
    };
    Ok(items.iter().any(|item| own(&item.name)))
}

/// Walks all files. `size` is the published tree's, `committed` that of the head.
pub(crate) fn check(
    source: &dyn LogSource,
    size: u64,
    committed: u64,
    report: &mut FsckReport,
) -> Result<(), SourceError> {
    for item in source.list("")?.unwrap_or_default() {
        match item.name.as_str() {
            name if FOLDERS.contains(&name) && item.folder => {}
            name if BESIDE.contains(&name) && !item.folder => {}
            name if rotated_number(name).is_some() && !item.folder => {}
            name => report.note(format!("{} is not a file of the log", quoted(name))),
        }
    }
    let mut superfluous = 0u64;
    let mut beyond = Vec::new();
    walk(
        source,
        "tile",
        0,
        &mut |folder, files, report| {
            for file in &files {
                let Some(name) = TileName::parse(file) else {
                    report.note(format!("{} is not a file of the log", quoted(file)));
                    continue;
                };
                let width = |size| match name.kind {
                    TileKind::Hashes(level) => width_at(size, level, name.index),
                    TileKind::Entries => width_at(size, 0, name.index),
                };
                if name.width > width(committed) && name.width > width(head_size(source)?) {
                    beyond.push(file.clone());
                } else if name.width < width(size) {
                    superfluous += u64::from(u64::from(width(size)) == TILE_WIDTH);
                }
            }
            match folder.ends_with(".p") {
                true => check_partials(source, &files, size, report),
                false => Ok(()),
            }
        },
        report,
    )?;
    if let Some(first) = beyond.first() {
        report.damage(Damage {
            file: first.clone(),
            offset: None,
            fault: format!("{} files are of a larger tree than the head's", beyond.len()),
            cost: "no crash leaves these: the log was larger, and its head was put back; leaves \
                   beyond the head are lost where pools do not hold them"
                .to_owned(),
            leaves: None,
        });
    }
    if superfluous > 0 {
        report.note(format!(
            "{superfluous} partial tiles are superfluous: their full ones are there"
        ));
    }
    Ok(())
}

/// Leaves of the head as it is now: a running collector writes it before the tiles.
pub(crate) fn head_size(source: &dyn LogSource) -> Result<u64, SourceError> {
    let bytes = source.get("head", MAX_NOTE as u64)?.unwrap_or_default();
    let parsed = Checkpoint::parse_unverified(&String::from_utf8_lossy(&bytes));
    Ok(parsed.map_or(0, |checkpoint| checkpoint.head.size))
}

/// Leaves that the log has now, published or not.
pub(crate) fn size_now(source: &dyn LogSource) -> Result<u64, SourceError> {
    let published = source.get("checkpoint", MAX_NOTE as u64)?.unwrap_or_default();
    let parsed = Checkpoint::parse_unverified(&String::from_utf8_lossy(&published));
    Ok(head_size(source)?.max(parsed.map_or(0, |checkpoint| checkpoint.head.size)))
}

type Visit<'v> = dyn FnMut(&str, Vec<String>, &mut FsckReport) -> Result<(), SourceError> + 'v;

fn walk(
    source: &dyn LogSource,
    folder: &str,
    depth: usize,
    visit: &mut Visit<'_>,
    report: &mut FsckReport,
) -> Result<(), SourceError> {
    let items = source.list(folder)?.unwrap_or_default();
    let (folders, files): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.folder);
    visit(folder, files.into_iter().map(|item| item.name).collect(), report)?;
    for folder in folders {
        if depth == MAX_DEPTH {
            report.note(format!("{} is deeper than any tile", quoted(&folder.name)));
            continue;
        }
        walk(source, &folder.name, depth + 1, visit, report)?;
    }
    Ok(())
}

/// Older partial versions of a tile are its beginning: whoever holds an older checkpoint reads them.
fn check_partials(
    source: &dyn LogSource,
    files: &[String],
    size: u64,
    report: &mut FsckReport,
) -> Result<(), SourceError> {
    let names: Vec<TileName> = files.iter().filter_map(|file| TileName::parse(file)).collect();
    let Some(first) = names.first() else { return Ok(()) };
    let needed = TileName { width: width_at(size, first.kind.level(), first.index), ..*first };
    if needed.width == 0 {
        return Ok(());
    }
    let Some(whole) = fetch(source, &needed)? else { return Ok(()) };
    if report.is_damaged(&whole.file) {
        report.note(format!("older versions of {} were not compared with it", whole.file));
        return Ok(());
    }
    for name in names.iter().filter(|name| name.width < needed.width) {
        let Some(older) = fetch(source, name)?.filter(|older| !older.wider) else { continue };
        let width = usize::from(name.width);
        let expected = match name.kind {
            TileKind::Hashes(_) => 32 * width,
            TileKind::Entries => split_bundle(&whole.bytes)
                .map_or(0, |all| all.iter().take(width).map(|leaf| leaf.len() + 2).sum()),
        };
        let expected = &whole.bytes[..expected.min(whole.bytes.len())];
        report.tiles += 1;
        if older.bytes == expected {
            continue;
        }
        let same = older.bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
        report.damage(Damage {
            file: older.file,
            offset: Some(same as u64),
            fault: format!("not the beginning of {}", whole.file),
            cost: "readers with a checkpoint of that size; nothing is lost: the next start makes it again, or it may go"
                .to_owned(),
            leaves: None,
        });
    }
    Ok(())
}
