//! The audit log in a bucket, which cannot append: lines that wait become an object of their own.

use meshchain_core::Hash;
use meshchain_store::{Store, StoreError, Version, wait};
use meshchain_stored::audit_line::{CHAIN_START, line_hash};
use std::time::SystemTime;
use tokio::runtime::Handle;

/// Where the objects are.
pub(super) struct AuditBucket {
    store: Store,
    runtime: Handle,
    /// Name of the object that is being written, so that it keeps it when it is tried again.
    name: Option<String>,
}

impl AuditBucket {
    /// Lines go into this store; also the hash of the last one that is there.
    pub(super) async fn open(store: &Store) -> Result<(Self, Hash), StoreError> {
        let newest = store.list("audit").await?.pop();
        let last = match newest {
            Some((name, _)) => store.get(&name).await?.unwrap_or_default(),
            None => Default::default(),
        };
        let last = last.strip_suffix(b"\n").and_then(|text| text.rsplit(|b| *b == b'\n').next());
        let prev = last.map_or(CHAIN_START, line_hash);
        Ok((Self { store: store.clone(), runtime: Handle::current(), name: None }, prev))
    }

    /// Writes whole lines as an object. One that an earlier try wrote, whose answer was lost, is found and is ours.
    /// Only for threads that may block.
    pub(super) fn keep(&mut self, lines: &[u8]) -> Result<(), StoreError> {
        let name = self.name.get_or_insert_with(|| name(lines)).clone();
        let (store, lines) = (self.store.clone(), lines.to_vec());
        let put = async move { store.swap(&name, lines, &Version::default()).await };
        wait(&self.runtime, put)?;
        self.name = None;
        Ok(())
    }
}

fn name(lines: &[u8]) -> String {
    let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = millis.map_or(0, |d| d.as_millis());
    // The hash keeps two collectors apart that write in the same moment.
    format!("audit/{millis:020}-{}.jsonl", hex::encode(&line_hash(lines)[..8]))
}
