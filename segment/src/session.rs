//! What a session has in the log, counted leaf by leaf: the collector keeps it in `sealed`, and fsck
//! counts it again.

use meshchain_core::{BatchHeader, BatchKind, BatchLeaf, Hash};
use serde::{Deserialize, Serialize};

/// One session. The default has nothing yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Leaf index of its first batch.
    pub first_leaf: u64,
    /// Number of batches.
    pub batches: u64,
    /// Seq of the last batch.
    pub last_seq: u64,
    /// Chain value of the last batch.
    #[serde(with = "hex::serde")]
    pub chain: Hash,
    /// Number of entries.
    pub entries: u64,
    /// Batches that were jumped over.
    pub missing: u64,
    /// Drops that the proxy reported last, over all reasons.
    pub dropped: u64,
    /// Notices that the proxy reported last about its configuration.
    pub notices: Vec<String>,
    /// When the last batch was accepted, unix nanoseconds.
    pub last_received_ns: u64,
    /// Source as text: mesh, cluster, namespace, workload, pod.
    pub source: [String; 5],
    /// SPIFFE id that delivered the last batch.
    pub principal: String,
    /// Its last batch was a close.
    pub closed: bool,
}

impl Session {
    /// Takes in its next batch, which is leaf `index` of the log.
    pub fn record(&mut self, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>, index: u64) {
        let next = if self.batches == 0 { 0 } else { self.last_seq.saturating_add(1) };
        if self.batches == 0 {
            self.first_leaf = index;
        }
        let jumped = header.seq.saturating_sub(next);
        self.missing = self.missing.saturating_add(jumped);
        self.batches += 1;
        self.last_seq = header.seq;
        self.chain = leaf.chain;
        self.entries += u64::from(header.count);
        self.dropped = header.dropped.iter().fold(0, |sum, d| sum.saturating_add(d.count));
        if header.kind == BatchKind::Heartbeat {
            self.notices = header.notices.iter().map(|&n| n.to_owned()).collect();
        }
        self.last_received_ns = leaf.received_ns;
        let s = &header.source;
        self.source = [s.mesh, s.cluster, s.namespace, s.workload, s.pod].map(str::to_owned);
        self.principal = String::from_utf8_lossy(leaf.principal).into_owned();
        self.closed = header.kind == BatchKind::Close;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::header::Dropped;

    #[test]
    fn gaps_are_counted_and_no_claim_of_a_proxy_overflows() {
        let mut session = Session::default();
        let mut record = |seq, drops: &[u64]| {
            let dropped = (1..).zip(drops).map(|(reason, &count)| Dropped { reason, count });
            let header = BatchHeader { seq, dropped: dropped.collect(), ..BatchHeader::default() };
            session.record(&BatchLeaf::default(), &header, 7 + seq);
            (session.first_leaf, session.batches, session.missing, session.dropped)
        };
        assert_eq!(record(2, &[]), (9, 1, 2, 0));
        assert_eq!(record(3, &[1, 2]), (9, 2, 2, 3));
        assert_eq!(record(6, &[u64::MAX, 2]), (9, 3, 4, u64::MAX));
        assert_eq!(record(u64::MAX - 7, &[]).1, 4);
    }
}
