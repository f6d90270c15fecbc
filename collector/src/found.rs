//! Which log is in a place, and with which key: a new one begins only where nobody can have lost one.

use crate::key::{KeyError, NewKey, load};
use meshchain_core::SigningKey;
use meshchain_store::{Location, Store, StoreError};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the log in a place cannot be written with this configuration.
#[derive(Debug, Error)]
pub enum FoundError {
    /// The place cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another log is there.
    #[error("{place} holds the log {held}, not {asked}")]
    OtherLog {
        /// The place.
        place: String,
        /// Origin of the log that is there.
        held: String,
        /// Origin asked for.
        asked: String,
    },
    /// A log is there, and not its key.
    #[error(
        "the key of this log is missing: restore it: {place} holds {held}, and there is no file {key}"
    )]
    NoKey {
        /// The place.
        place: String,
        /// Origin of the log that is there, or what is left of one.
        held: String,
        /// File of the key.
        key: PathBuf,
    },
    /// A key is there, and not its log.
    #[error(
        "{place} holds no log, and the key {key} was there before: if its log is lost, restore it \
         (docs/restore.md); if there never was one, found it: \
         meshchain-collector init --origin NAME"
    )]
    NoLog {
        /// The place.
        place: String,
        /// File of the key.
        key: PathBuf,
    },
}

/// Stands in a place from before its key is kept until its log is there, and holds its verification key: a first start
/// that was cut off goes on.
const FOUNDING: &str = "founding";

/// The log is there.
pub async fn founded(store: &Store) -> Result<(), StoreError> {
    match store.get(FOUNDING).await? {
        Some(_) => store.delete(FOUNDING).await,
        None => Ok(()),
    }
}

/// The key of the log in a place, and whether it was made now.
///
/// A key that was there before is that of a log, which may be lost: a second one of its name is begun only by an
/// operator who says so (`found`).
pub async fn key_of(
    store: &Store,
    place: &Location,
    file: &Path,
    origin: Option<&str>,
    found: bool,
) -> Result<(SigningKey, bool), FoundError> {
    let held = meshchain_log::origin(store).await?;
    let other = |held: &str, asked: &str| FoundError::OtherLog {
        place: place.to_string(),
        held: held.to_owned(),
        asked: asked.to_owned(),
    };
    if let (Some(held), Some(asked)) = (&held, origin)
        && held != asked
    {
        return Err(other(held, asked));
    }
    let is_there = meshchain_log::is_there(store).await?;
    if is_there && !file.exists() {
        let held = held.map_or("parts of a log".to_owned(), |held| format!("the log {held}"));
        return Err(FoundError::NoKey { place: place.to_string(), held, key: file.to_owned() });
    }
    let Some(key) = load(file, origin)? else {
        let new = NewKey::draw(file, origin)?;
        store.put(FOUNDING, new.key.verifier().to_string()).await?;
        new.keep(file, origin)?;
        return Ok((new.key, true));
    };
    // Only the key that was made there: another one has come from elsewhere, and may have had a log.
    let founding = store.get(FOUNDING).await?;
    let founding = founding.is_some_and(|by| by == key.verifier().to_string());
    // By its name: the key alone may have had a log.
    let asked = found && origin.is_some();
    match held {
        Some(held) if held != key.verifier().name() => Err(other(&held, key.verifier().name())),
        None if !(is_there || founding || asked) => {
            Err(FoundError::NoLog { place: place.to_string(), key: file.to_owned() })
        }
        _ => Ok((key, false)),
    }
}
