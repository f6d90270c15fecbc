//! The two objects that say how far the log is, and the right to replace them.
//!
//! `head` is the commit point of a batch, `sealed` that of a segment. Both name the writer that wrote
//! them, by a number that it drew when it started: so a collector that takes the log over changes
//! both, and one that lost it cannot replace either any more.

use crate::error::{OpenError, damaged};
use meshchain_core::{Checkpoint, SigningKey, TreeHead};
use meshchain_store::{Store, StoreError, Version};
use meshchain_stored::sealed::{SEALED, SealedState};

/// Object with the committed head.
pub(crate) const HEAD: &str = "head";
/// Object with the published checkpoint.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// How often an object is taken over that its former writer replaces meanwhile: it has one write to
/// finish at most.
const ATTEMPTS: usize = 4;

/// The objects as this writer left them.
pub struct Owned {
    store: Store,
    writer: String,
    head: Version,
    checkpoint: Version,
}

/// What was found when the log was taken over.
pub struct TakenOver {
    /// The right to write.
    pub owned: Owned,
    /// Committed.
    pub head: TreeHead,
    /// Published, with its note.
    pub published: Option<(TreeHead, String)>,
    /// Sealed.
    pub sealed: SealedState,
    /// The right to seal.
    pub sealed_version: Version,
}

impl Owned {
    /// Reads head, checkpoint and sealed, and makes them this writer's. The head comes first: from
    /// then on the former writer commits nothing, though it may still publish or seal what it did.
    pub async fn take_over(
        store: &Store,
        key: &SigningKey,
        writer: String,
    ) -> Result<TakenOver, OpenError> {
        let published = read_checkpoint(store, CHECKPOINT, key).await?;
        let applied = published.as_ref().map_or(0, |(head, _, _)| head.size);
        let has_leaves = published.is_some() || has_leaves(store).await?;
        let store = store.clone();
        let (head, checkpoint) = (Version::default(), Version::default());
        let mut owned = Self { store, writer, head, checkpoint };
        let head = owned.take_head(key, applied, has_leaves).await?;
        let published = owned.read_published(key).await?;
        let (sealed, sealed_version) = owned.take_sealed(&head).await?;
        if sealed.end() > head.size {
            let fault = format!(
                "speaks of {} leaves, the head of {}: this is an older copy of the log, or another one",
                sealed.end(),
                head.size
            );
            return Err(damaged(SEALED, fault));
        }
        Ok(TakenOver { owned, head, published, sealed, sealed_version })
    }

    /// Makes the head this writer's: `applied` leaves were published.
    async fn take_head(
        &mut self,
        key: &SigningKey,
        applied: u64,
        has_leaves: bool,
    ) -> Result<TreeHead, OpenError> {
        for _ in 0..ATTEMPTS {
            let head = match read_checkpoint(&self.store, HEAD, key).await? {
                Some((head, _, _)) if head.size < applied => {
                    let fault = format!("has {} leaves, but {applied} were published", head.size);
                    return Err(damaged(HEAD, fault));
                }
                Some((head, _, version)) => {
                    self.head = version;
                    head
                }
                // The head of a new log is written before anything else: here it was lost.
                None if has_leaves => {
                    return Err(damaged(HEAD, "missing, though there are leaves or a checkpoint"));
                }
                None => SealedState::empty().head(),
            };
            // A directory is this writer's by its lock: where the disk is full, it is read all the same.
            if !self.store.is_shared() && head.size > 0 {
                return Ok(head);
            }
            let before = self.head.clone();
            match self.commit(&head, key).await {
                Ok(()) if self.store.is_shared() => {
                    let note = Checkpoint::sign(&head, key);
                    return match self.store.swap(HEAD, note, &before).await {
                        Err(StoreError::TakenOver(_)) => Ok(head),
                        Err(error) => Err(error.into()),
                        Ok(_) => Err(OpenError::Unconditional),
                    };
                }
                Ok(()) => return Ok(head),
                // The former writer committed in this moment.
                Err(StoreError::TakenOver(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::TakenOver(HEAD.to_owned()).into())
    }

    async fn read_published(
        &mut self,
        key: &SigningKey,
    ) -> Result<Option<(TreeHead, String)>, OpenError> {
        let found = read_checkpoint(&self.store, CHECKPOINT, key).await?;
        Ok(found.map(|(head, note, version)| {
            self.checkpoint = version;
            (head, note)
        }))
    }

    /// Publishes what the former writer committed, unless it does so in this moment itself.
    pub async fn publish_taken(
        &mut self,
        head: &TreeHead,
        mut published: Option<(TreeHead, String)>,
        key: &SigningKey,
    ) -> Result<String, OpenError> {
        for _ in 0..ATTEMPTS {
            match published {
                Some((found, note)) if found == *head => return Ok(note),
                // Only who took the log over since can have come further.
                Some((found, _)) if found.size > head.size => break,
                _ => {}
            }
            let note = Checkpoint::sign(head, key);
            match self.publish(note.clone()).await {
                Ok(()) => return Ok(note),
                Err(StoreError::TakenOver(_)) => published = self.read_published(key).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::TakenOver(CHECKPOINT.to_owned()).into())
    }

    async fn take_sealed(&self, head: &TreeHead) -> Result<(SealedState, Version), OpenError> {
        for _ in 0..ATTEMPTS {
            let (mut sealed, version) = match self.store.get_version(SEALED).await? {
                Some((bytes, version)) => {
                    let sealed = SealedState::parse(&bytes).map_err(|e| damaged(SEALED, e))?;
                    if !self.store.is_shared() {
                        return Ok((sealed, version));
                    }
                    (sealed, version)
                }
                // It is written before the first leaf, and can be made again as long as nothing was sealed.
                None if head.size > 0 && !self.store.list("segment").await?.is_empty() => {
                    return Err(damaged(SEALED, "missing, though there are segments"));
                }
                None => (SealedState::empty(), Version::default()),
            };
            sealed.writer.clone_from(&self.writer);
            match self.store.swap(SEALED, sealed.to_bytes(), &version).await {
                Ok(version) => return Ok((sealed, version)),
                // The former writer sealed in this moment.
                Err(StoreError::TakenOver(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::TakenOver(SEALED.to_owned()).into())
    }

    /// Replaces the head: the commit point.
    pub async fn commit(&mut self, head: &TreeHead, key: &SigningKey) -> Result<(), StoreError> {
        let note = Checkpoint::sign_extended(head, &format!("writer {}\n", self.writer), key);
        self.head = self.store.swap(HEAD, note, &self.head).await?;
        Ok(())
    }

    /// Replaces the checkpoint that readers see.
    pub async fn publish(&mut self, note: String) -> Result<(), StoreError> {
        self.checkpoint = self.store.swap(CHECKPOINT, note, &self.checkpoint).await?;
        Ok(())
    }

    /// Fails where another collector has taken over.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.store.check(HEAD, &self.head).await
    }
}

async fn has_leaves(store: &Store) -> Result<bool, StoreError> {
    let sealed = store.get(SEALED).await?.is_some();
    if sealed {
        return Ok(true);
    }
    for folder in ["pool", "tile", "segment", "sessions"] {
        if !store.list(folder).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is a log, or what is left of one.
pub async fn is_there(store: &Store) -> Result<bool, StoreError> {
    let written = store.get(HEAD).await?.is_some() || store.get(CHECKPOINT).await?.is_some();
    Ok(written || has_leaves(store).await?)
}

/// Origin of the log that is there, as its head or checkpoint says; nobody has checked it.
pub async fn origin(store: &Store) -> Result<Option<String>, StoreError> {
    for object in [HEAD, CHECKPOINT] {
        if let Some(note) = store.get(object).await? {
            let line = note.split(|byte| *byte == b'\n').next().unwrap_or_default();
            return Ok(Some(String::from_utf8_lossy(line).into_owned()));
        }
    }
    Ok(None)
}

async fn read_checkpoint(
    store: &Store,
    object: &'static str,
    key: &SigningKey,
) -> Result<Option<(TreeHead, String, Version)>, OpenError> {
    let Some((bytes, version)) = store.get_version(object).await? else {
        return Ok(None);
    };
    let note = String::from_utf8(bytes.to_vec()).map_err(|e| damaged(object, e))?;
    let checkpoint = Checkpoint::open(&note, key.verifier())
        .map_err(|source| OpenError::Foreign { object, source })?;
    Ok(Some((checkpoint.head, note, version)))
}
