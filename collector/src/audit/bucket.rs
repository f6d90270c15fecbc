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
    /// Milliseconds in the newest name: names go on from there, whatever the clock says.
    newest_ms: u128,
}

impl AuditBucket {
    /// Lines go into this store; also the hash of the last one that is there.
    pub(super) async fn open(store: &Store) -> Result<(Self, Hash), StoreError> {
        let newest = store.list("audit").await?.pop();
        let (last, newest_ms) = match newest {
            Some((name, _)) => (store.get(&name).await?.unwrap_or_default(), millis_of(&name)),
            None => Default::default(),
        };
        let last = last.strip_suffix(b"\n").and_then(|text| text.rsplit(|b| *b == b'\n').next());
        let prev = last.map_or(CHAIN_START, line_hash);
        let (store, runtime) = (store.clone(), Handle::current());
        Ok((Self { store, runtime, name: None, newest_ms }, prev))
    }

    /// Writes whole lines as an object. One that an earlier try wrote, whose answer was lost, is found and is ours.
    /// Only for threads that may block.
    pub(super) fn keep(&mut self, lines: &[u8]) -> Result<(), StoreError> {
        if self.name.is_none() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            self.newest_ms = now.map_or(0, |d| d.as_millis()).max(self.newest_ms + 1);
        }
        let millis = self.newest_ms;
        let name = self.name.get_or_insert_with(|| name(millis, lines)).clone();
        let (store, lines) = (self.store.clone(), lines.to_vec());
        let put = async move { store.swap(&name, lines, &Version::default()).await };
        wait(&self.runtime, put)?;
        self.name = None;
        Ok(())
    }
}

/// The milliseconds in a name; 0 where there are none.
fn millis_of(name: &str) -> u128 {
    let digits = name.rsplit('/').next().and_then(|name| name.split_once('-'));
    // A name of the far future is nobody's clock.
    digits.and_then(|(millis, _)| millis.parse().ok()).filter(|ms| *ms < 1 << 62).unwrap_or(0)
}

fn name(millis: u128, lines: &[u8]) -> String {
    // The hash keeps two collectors apart that write in the same moment.
    format!("audit/{millis:020}-{}.jsonl", hex::encode(&line_hash(lines)[..8]))
}
