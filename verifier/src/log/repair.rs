//! Writing again what a check found damaged, where its right bytes are proved by what is left.

use super::findings::FsckReport;
use crate::fetch::write_atomically;
use std::fs::{File, TryLockError};
use std::path::Path;

/// Writes the files of a data directory that the report can tell the bytes of, and moves what is in their place and
/// is evidence; returns their names.
///
/// Refused while a collector holds the directory, and for anything but a directory. A tile is proved
/// by the root of the signed checkpoint, an anchor by its block.
pub fn repair(directory: &Path, report: &FsckReport) -> Result<Vec<String>, String> {
    let path = directory.display();
    if !directory.is_dir() {
        return Err(format!("{path} is no directory: only a data directory can be repaired"));
    }
    let _lock = lock(directory)?;
    let mut written = Vec::new();
    for (from, to) in &report.moves {
        let target = directory.join(to);
        let folder = target.parent().unwrap_or(directory);
        let done = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::rename(directory.join(from), &target));
        done.map_err(|e| format!("{}: {e}", target.display()))?;
        written.push(to.clone());
    }
    for (name, bytes) in &report.repairs {
        // Tiles are those of the tree that was recomputed: of another one they prove nothing.
        if name.starts_with("tile/") && !report.root_recomputed {
            continue;
        }
        let file = directory.join(name);
        let folder = file.parent().unwrap_or(directory);
        let done = std::fs::create_dir_all(folder).and_then(|()| write_atomically(&file, bytes));
        done.map_err(|e| format!("{}: {e}", file.display()))?;
        written.push(name.clone());
    }
    Ok(written)
}

/// The collector's lock, until it is dropped.
fn lock(directory: &Path) -> Result<Option<File>, String> {
    let path = directory.join("lock");
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => {
            Err(format!("a collector is running on {}: stop it first", directory.display()))
        }
        Err(TryLockError::Error(e)) => Err(format!("{}: {e}", path.display())),
    }
}
