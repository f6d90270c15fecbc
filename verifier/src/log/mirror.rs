//! A copy of a log that is checked as it grows: every leaf under the signed checkpoints, and the entries of each leaf.
//!
//! Nothing stands in the copy that the newest checkpoint's root does not prove. What comes is gathered in `incoming/`,
//! and moved into its place when all of it is proved; so a copy that was interrupted goes on, and one that was lied to
//! is as before.

use super::log_key::LogKey;
use super::needed::at_edge;
use super::source::{Directory, LogSource, SourceError};
use super::tiles::MAX_BUNDLE;
use crate::fetch::write_atomically;
use meshchain_core::note::MAX_NOTE;
use meshchain_core::tile::{EdgeTiles, TILE_WIDTH, TileKind, TileName, split_bundle, width_at};
use meshchain_core::{Checkpoint, Hash, TreeHead, merkle};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where what is not proved yet lies.
const INCOMING: &str = "incoming";
/// Where checkpoints are kept that contradict the copy.
const CONTRADICTIONS: &str = "contradictions";

/// Why a copy did not go on. It is as it was.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// What the log shows contradicts what it signed before, or itself.
    #[error("{0}")]
    Contradiction(String),
    /// Something cannot be read, or is not what it should be.
    #[error("{0}")]
    NotRead(String),
    /// The copy cannot be written.
    #[error("{0}: {1}")]
    NotWritten(String, io::Error),
}

impl From<SourceError> for MirrorError {
    fn from(error: SourceError) -> Self {
        Self::NotRead(error.to_string())
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirrored {
    /// Leaves before.
    pub from: u64,
    /// The tree now.
    pub head: TreeHead,
    /// Whether the source gives out entries: they are copied too then.
    pub entries: bool,
}

/// A copy, and where it comes from.
pub struct Mirror<'a> {
    pub(super) source: &'a dyn LogSource,
    key: &'a LogKey,
    pub(super) directory: PathBuf,
    pub(super) local: Directory,
    pub(super) incoming: Directory,
}

impl<'a> Mirror<'a> {
    /// A copy in `directory`, which is made where it is not there.
    pub fn new(source: &'a dyn LogSource, key: &'a LogKey, directory: &Path) -> Self {
        let (local, incoming) = (Directory(directory.into()), Directory(directory.join(INCOMING)));
        Self { source, key, directory: directory.to_owned(), local, incoming }
    }

    /// Copies what the log has grown by. `progress` is told (leaves done, leaves in all).
    pub fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Mirrored, MirrorError> {
        let old = self.checkpoint(&self.local)?.map(|(_, checkpoint)| checkpoint);
        let new = self.checkpoint(self.source)?;
        let none =
            || MirrorError::NotRead(format!("{}: there is no checkpoint", self.source.name()));
        let (text, new) = new.ok_or_else(none)?;
        let before = match &old {
            Some(old) if old.origin != new.origin => {
                let (is, was) = (&new.origin, &old.origin);
                return Err(MirrorError::NotRead(format!(
                    "the log is {is:?}, the copy is of {was:?}"
                )));
            }
            Some(old) => old.head,
            None => TreeHead { size: 0, root: merkle::empty_root() },
        };
        let (from, head) = (before.size, new.head);
        if head.size < from || head.size == from && head.root != before.root {
            return Err(self.contradiction(
                &text,
                &head,
                format!(
                    "{} leaves with root {}, where it had signed {from} with root {}",
                    head.size,
                    hex::encode(head.root),
                    hex::encode(before.root)
                ),
            )?);
        }
        if head.size == from {
            return Ok(Mirrored { from, head, entries: self.has_entries() });
        }
        let edge = match self.grow_again(&before, &head, progress)? {
            Grown::Whole(edge) => edge,
            Grown::Fork => {
                let what = format!("its first {from} leaves have another root than it had signed");
                return Err(self.contradiction(&text, &head, what)?);
            }
            Grown::Unproved => {
                let what = format!(
                    "the leaves that it serves do not make the root of {} leaves",
                    head.size
                );
                return Err(MirrorError::NotRead(what));
            }
        };
        let entries = self.copy_entries(&head)?;
        self.move_in(INCOMING)?;
        for (level, index, hashes) in edge.partials() {
            let width = hashes.len() as u16;
            let name = TileName { kind: TileKind::Hashes(level), index, width };
            self.write(&name.path(), hashes.as_flattened())?;
        }
        self.write("checkpoint", text.as_bytes())?;
        self.drop_partials(&before, &head);
        Ok(Mirrored { from, head, entries })
    }

    /// The signed checkpoint of a source, with its text.
    fn checkpoint(
        &self,
        source: &dyn LogSource,
    ) -> Result<Option<(String, Checkpoint)>, MirrorError> {
        let Some(bytes) = source.get("checkpoint", MAX_NOTE as u64)? else { return Ok(None) };
        let bad =
            |why: String| MirrorError::NotRead(format!("{}: checkpoint: {why}", source.name()));
        let text = String::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
        let claimed = Checkpoint::parse_unverified(&text).map_err(|e| bad(e.to_string()))?;
        let key = self.key.of(&claimed.origin).map_err(bad)?;
        let checkpoint = Checkpoint::open(&text, key).map_err(|e| bad(e.to_string()))?;
        Ok(Some((text, checkpoint)))
    }

    /// Keeps the checkpoint that shows it.
    fn contradiction(
        &self,
        text: &str,
        head: &TreeHead,
        what: String,
    ) -> Result<MirrorError, MirrorError> {
        let name = format!("{CONTRADICTIONS}/{}-{}", head.size, hex::encode(&head.root[..8]));
        self.write(&name, text.as_bytes())?;
        Ok(MirrorError::Contradiction(format!(
            "two histories, or the log shrank: {what}; its checkpoint is kept as {name}"
        )))
    }

    /// As [`Self::grow`]. What an interrupted run gathered is not proved: without it all is asked for once more.
    fn grow_again(
        &self,
        before: &TreeHead,
        head: &TreeHead,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Grown, MirrorError> {
        let resumed = self.incoming.0.is_dir();
        let mut grown = self.grow(before, head, progress)?;
        if resumed && !matches!(grown, Grown::Whole(_)) {
            let _ = fs::remove_dir_all(&self.incoming.0);
            grown = self.grow(before, head, progress)?;
        }
        if !matches!(grown, Grown::Whole(_)) {
            let _ = fs::remove_dir_all(&self.incoming.0);
        }
        Ok(grown)
    }

    /// Gathers tiles and bundles, and compares them with both roots.
    fn grow(
        &self,
        before: &TreeHead,
        head: &TreeHead,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Grown, MirrorError> {
        let mut continues = true;
        let first = before.size / TILE_WIDTH;
        let mut edge = self.edge(first * TILE_WIDTH)?;
        for index in first..head.size.div_ceil(TILE_WIDTH) {
            let width = width_at(head.size, 0, index);
            let name = TileName { kind: TileKind::Entries, index, width };
            let bundle = self.bundle(&name)?;
            let leaves = split_bundle(&bundle).filter(|leaves| leaves.len() == usize::from(width));
            let odd =
                || MirrorError::NotRead(format!("{}: no bundle of {width} leaves", name.path()));
            for leaf in leaves.ok_or_else(odd)? {
                let mut filled = Vec::new();
                edge.append(merkle::leaf_hash(leaf), |level, index, hashes| {
                    filled.push((level, index, hashes.as_flattened().to_vec()));
                });
                for (level, index, hashes) in filled {
                    let kind = TileKind::Hashes(level);
                    let name = TileName { kind, index, width: TILE_WIDTH as u16 };
                    self.gather(&name.path(), &hashes)?;
                }
                continues &= edge.size() != before.size || edge.root() == before.root;
            }
            self.gather(&name.path(), &bundle)?;
            progress(edge.size(), head.size);
        }
        Ok(match (edge.root() == head.root, continues) {
            (true, true) => Grown::Whole(edge),
            (true, false) => Grown::Fork,
            (false, _) => Grown::Unproved,
        })
    }

    /// The edge of the copied tree of so many leaves, which fill tiles.
    fn edge(&self, size: u64) -> Result<EdgeTiles, MirrorError> {
        let edge = EdgeTiles::load(size, |level, index, width| {
            let name = TileName { kind: TileKind::Hashes(level), index, width };
            let bytes = self.local.get(&name.path(), 32 * TILE_WIDTH)?;
            let hashes: Option<Vec<Hash>> = bytes.map(|bytes| bytes.as_chunks::<32>().0.to_vec());
            Ok::<_, MirrorError>(hashes.unwrap_or_default())
        })?;
        edge.ok_or_else(|| {
            MirrorError::NotRead(format!("{}: tiles of the copy are lost", self.local.name()))
        })
    }

    /// A bundle: one that was gathered before, else the log's.
    pub(super) fn bundle(&self, name: &TileName) -> Result<Vec<u8>, MirrorError> {
        let path = name.path();
        if u64::from(name.width) == TILE_WIDTH {
            for near in [&self.local, &self.incoming] {
                if let Some(found) = near.get(&path, MAX_BUNDLE)? {
                    return Ok(found);
                }
            }
        }
        let found = self.source.get(&path, MAX_BUNDLE)?;
        found.ok_or_else(|| MirrorError::NotRead(format!("{path} is missing")))
    }

    pub(super) fn gather(&self, name: &str, bytes: &[u8]) -> Result<(), MirrorError> {
        self.write(&format!("{INCOMING}/{name}"), bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), MirrorError> {
        let path = self.directory.join(name);
        let folder = path.parent().unwrap_or(&self.directory);
        let written = fs::create_dir_all(folder).and_then(|()| write_atomically(&path, bytes));
        written.map_err(|error| MirrorError::NotWritten(path.display().to_string(), error))
    }

    /// Moves what was gathered below a folder into its place.
    fn move_in(&self, folder: &str) -> Result<(), MirrorError> {
        let failed =
            |path: &Path, error| MirrorError::NotWritten(path.display().to_string(), error);
        for item in self.local.list(folder)?.unwrap_or_default() {
            let (from, name) = (self.directory.join(&item.name), &item.name[INCOMING.len() + 1..]);
            let to = self.directory.join(name);
            if item.folder {
                fs::create_dir_all(&to).map_err(|e| failed(&to, e))?;
                self.move_in(&item.name)?;
                let _ = fs::remove_dir(&from);
            } else {
                fs::rename(&from, &to).map_err(|e| failed(&to, e))?;
            }
        }
        let _ = fs::remove_dir(self.directory.join(folder));
        Ok(())
    }

    /// Partial tiles of the former edge are superfluous.
    fn drop_partials(&self, before: &TreeHead, head: &TreeHead) {
        for name in at_edge(before.size) {
            if name.width != width_at(head.size, name.kind.level(), name.index) {
                let _ = fs::remove_file(self.directory.join(name.path()));
            }
        }
    }
}

/// What the leaves that were gathered make.
enum Grown {
    /// The tree that was signed, which continues the former one.
    Whole(EdgeTiles),
    /// The tree that was signed, and not the former one.
    Fork,
    /// Not the tree that was signed.
    Unproved,
}
