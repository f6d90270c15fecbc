//! A staging bundle in memory, damaged or not.

use super::source::{LogSource, SourceError};
use meshchain_stored::staging::{self, StagingRead};

/// Most bytes of a bundle that are read: 64 MiB of waiting batches by default, and room.
const MAX_BUNDLE: u64 = 256 << 20;

pub(crate) struct StagingBundle {
    pub(crate) bytes: Vec<u8>,
    /// What can be found in it.
    pub(crate) read: StagingRead,
}

impl StagingBundle {
    /// Reads an object; `None` where there is none.
    pub(crate) fn load(source: &dyn LogSource, name: &str) -> Result<Option<Self>, SourceError> {
        let bytes = source.get(name, MAX_BUNDLE)?;
        Ok(bytes.map(|bytes| Self { read: staging::read(&bytes), bytes }))
    }
}
