//! Retention: records are deleted when they are old enough, leaves and entries never.

use crate::clock::unix_ns;
use crate::event::Event;
use crate::log::Log;
use meshchain_stored::SegmentFile;
use std::sync::Arc;
use std::time::Duration;

/// Most time between two looks at the segments' age; a tenth of the retention where that is less.
const MOST_BETWEEN_CHECKS: Duration = Duration::from_secs(60);

/// Deletes the records of each segment whose newest batch is older than `keep`, for ever.
///
/// The collector's own clock counts, not the proxies'. Evidence of such a call has no record any
/// more, and verifies as before.
pub async fn delete_old_records(log: Arc<Log>, keep: Duration) {
    let check = (keep / 10).min(MOST_BETWEEN_CHECKS);
    loop {
        let before = unix_ns().saturating_sub(keep.as_nanos().try_into().unwrap_or(u64::MAX));
        let segments = log.catalog().sealed();
        let old = |s: &&Arc<_>| {
            let s: &crate::segment::Sealed = s;
            s.records_len.is_some() && s.layout.newest_ns < before
        };
        let barred = log.barred().is_some();
        for segment in segments.iter().filter(old).filter(|_| !barred) {
            if let Err(error) = log.store.delete(&segment.name.path(SegmentFile::Records)).await {
                log::warn!("old records are still there: {error}");
                continue;
            }
            log.catalog_mut().without_records(segment);
            let records = segment.layout.records;
            log::debug!("{records} records of segment {} are deleted", segment.name);
            log.tell(Event::RecordsDeleted { segment: segment.name, records });
        }
        tokio::time::sleep(check).await;
    }
}
