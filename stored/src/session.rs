//! What a session has in the log, counted leaf by leaf: the collector keeps it in memory or in a
//! session table, and fsck counts it again.

use meshchain_core::header::Dropped;
use meshchain_core::{BatchHeader, BatchKind, BatchLeaf, Hash, SessionId, Source};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Calls dropped so far: reason and count, ascending by reason.
pub type Drops = Vec<(u32, u64)>;

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
    /// Drops that the proxy reported last.
    pub dropped: Drops,
    /// Notices that the proxy reported last about its configuration.
    pub notices: Vec<String>,
    /// When the last batch was accepted, unix nanoseconds.
    pub last_received_ns: u64,
    /// Source that the first batch claimed: mesh, cluster, namespace, workload, pod, revision, filter.
    pub source: [String; 7],
    /// SPIFFE id that delivered the first batch: with `source`, whom the session belongs to.
    pub principal: String,
    /// Its last batch was a close.
    pub closed: bool,
    /// The session that this one follows, by its own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Former>,
}

/// A session that a refusal ended, as the one that follows it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Its id.
    #[serde(with = "hex::serde")]
    pub session: SessionId,
    /// Number of batches that it sealed.
    pub batches: u64,
    /// What it had dropped in the end.
    pub dropped: Drops,
}

/// How a batch follows those of its session that are in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// It is the first.
    pub opens: bool,
    /// Batches from this seq up to its own are missing.
    pub gap_from: Option<u64>,
    /// What is odd about it.
    pub odd: Vec<Oddity>,
}

/// What no honest proxy does within a session; the collector refuses the first two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Oddity {
    /// A batch came from another principal than the session's first.
    Principal {
        /// Of the first batch.
        owner: String,
        /// Of this one.
        found: String,
    },
    /// A batch claims another source than the session's first.
    Source,
    /// A batch follows a close batch.
    AfterClose,
    /// A counter of dropped calls fell.
    DropsFell {
        /// Reason as a number.
        reason: u32,
        /// What the batch before told.
        from: u64,
        /// What this one tells; 0 where it is silent about it.
        to: u64,
    },
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal { owner, found } => {
                write!(f, "delivered by {found:?}, the session is {owner:?}'s")
            }
            Self::Source => f.write_str("claims another source than the session's first batch"),
            Self::AfterClose => f.write_str("follows the batch that closed the session"),
            Self::DropsFell { reason, from, to } => {
                write!(f, "the count of calls dropped for reason {reason} fell from {from} to {to}")
            }
        }
    }
}

/// What the log lacks of a session that another one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Both belong to one principal and source: what was lost after its last batch in the log.
    Lost {
        /// Batches that it sealed and the log does not have at its end.
        batches: u64,
        /// Calls that it dropped beyond what its last batch told.
        calls: u64,
    },
    /// It belongs to somebody else: what is said about it counts for nothing.
    Foreign,
}

impl Session {
    /// Whether a batch of this sender and claimed source may be one of the session.
    pub fn is_of(&self, principal: &[u8], source: &Source<'_>) -> bool {
        self.principal.as_bytes() == principal
            && self.source.iter().zip(names(source)).all(|(own, name)| own == name)
    }

    /// Calls that the proxy says it dropped, over all reasons.
    pub fn dropped_calls(&self) -> u64 {
        sum(&self.dropped)
    }

    /// Takes in its next batch, which is leaf `index` of the log; how it follows the ones before.
    pub fn record(&mut self, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>, index: u64) -> Step {
        let dropped = drops(&header.dropped);
        let opens = self.batches == 0;
        let odd = if opens { Vec::new() } else { self.oddities(leaf, header, &dropped) };
        let next = if opens { 0 } else { self.last_seq.saturating_add(1) };
        if opens {
            self.open(leaf, header, index);
        }
        let jumped = header.seq.saturating_sub(next);
        self.missing = self.missing.saturating_add(jumped);
        self.batches += 1;
        self.last_seq = header.seq;
        self.chain = leaf.chain;
        self.entries += u64::from(header.count);
        self.dropped = dropped;
        if header.kind == BatchKind::Heartbeat {
            self.notices = header.notices.iter().map(|&n| n.to_owned()).collect();
        }
        self.last_received_ns = leaf.received_ns;
        self.closed = header.kind == BatchKind::Close;
        Step { opens, gap_from: (jumped > 0).then_some(next), odd }
    }

    fn open(&mut self, leaf: &BatchLeaf<'_>, header: &BatchHeader<'_>, index: u64) {
        self.first_leaf = index;
        self.source = names(&header.source).map(str::to_owned);
        self.principal = String::from_utf8_lossy(leaf.principal).into_owned();
        self.previous = header.previous.as_ref().map(|former| Former {
            session: former.session,
            batches: former.batches,
            dropped: drops(&former.dropped),
        });
    }

    fn oddities(
        &self,
        leaf: &BatchLeaf<'_>,
        header: &BatchHeader<'_>,
        dropped: &Drops,
    ) -> Vec<Oddity> {
        let mut odd = Vec::new();
        let found = String::from_utf8_lossy(leaf.principal);
        if self.principal != found {
            odd.push(Oddity::Principal {
                owner: self.principal.clone(),
                found: found.into_owned(),
            });
        }
        if self.source.each_ref().map(String::as_str) != names(&header.source) {
            odd.push(Oddity::Source);
        }
        if self.closed {
            odd.push(Oddity::AfterClose);
        }
        for &(reason, from) in &self.dropped {
            let to = dropped.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count);
            if to < from {
                odd.push(Oddity::DropsFell { reason, from, to });
            }
        }
        odd
    }

    /// What the log lacks of the session that this one follows; `None` where it follows none. `former`
    /// is what the log has of it, the default where it has nothing.
    pub fn followed(&self, former: &Session) -> Option<Followed> {
        let told = self.previous.as_ref()?;
        let same = self.principal == former.principal && self.source == former.source;
        let logged = match former.batches {
            0 => 0,
            _ if !same => return Some(Followed::Foreign),
            _ => former.last_seq.saturating_add(1),
        };
        Some(Followed::Lost {
            batches: told.batches.saturating_sub(logged),
            calls: sum(&told.dropped).saturating_sub(former.dropped_calls()),
        })
    }
}

fn names<'a>(source: &Source<'a>) -> [&'a str; 7] {
    let Source { mesh, cluster, namespace, workload, pod, revision, filter } = *source;
    [mesh, cluster, namespace, workload, pod, revision, filter]
}

fn drops(dropped: &[Dropped]) -> Drops {
    dropped.iter().map(|d| (d.reason, d.count)).collect()
}

fn sum(drops: &Drops) -> u64 {
    drops.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_core::Previous;

    fn dropped(counts: &[u64]) -> Vec<Dropped> {
        let dropped = (1..).zip(counts).map(|(reason, &count)| Dropped { reason, count });
        dropped.filter(|d| d.count > 0).collect()
    }

    #[test]
    fn gaps_are_counted_and_no_claim_of_a_proxy_overflows() {
        let mut session = Session::default();
        let mut record = |seq, drops: &[u64]| {
            let header = BatchHeader { seq, dropped: dropped(drops), ..BatchHeader::default() };
            session.record(&BatchLeaf::default(), &header, 7 + seq);
            (session.first_leaf, session.batches, session.missing, session.dropped_calls())
        };
        assert_eq!(record(2, &[]), (9, 1, 2, 0));
        assert_eq!(record(3, &[1, 2]), (9, 2, 2, 3));
        assert_eq!(record(6, &[u64::MAX, 2]), (9, 3, 4, u64::MAX));
        assert_eq!(record(u64::MAX - 7, &[]).1, 4);
    }

    #[test]
    fn a_gap_begins_at_the_first_batch_that_is_missing_also_where_that_is_the_sessions_first() {
        for (before, seq, opens, gap_from) in [
            (&[][..], 0, true, None),
            (&[], 1, true, Some(0)),
            (&[], u64::MAX, true, Some(0)),
            (&[0], 1, false, None),
            (&[0], 2, false, Some(1)),
            (&[3], 4, false, None),
            (&[3, 9], 12, false, Some(10)),
            (&[u64::MAX], u64::MAX, false, None),
        ] {
            let mut session = Session::default();
            let mut record = |seq| {
                let header = BatchHeader { seq, ..BatchHeader::default() };
                session.record(&BatchLeaf::default(), &header, 0)
            };
            before.iter().for_each(|&seq| drop(record(seq)));
            let expected = Step { opens, gap_from, odd: Vec::new() };
            assert_eq!(record(seq), expected, "{before:?} {seq}");
        }
    }

    #[test]
    fn a_session_stays_with_the_sender_and_source_of_its_first_batch() {
        let web = Source { workload: "web", ..Source::default() };
        let mut session = Session::default();
        let mut record = |principal: &'static str, source, seq| {
            let leaf = BatchLeaf { principal: principal.as_bytes(), ..BatchLeaf::default() };
            let header = BatchHeader { source, seq, ..BatchHeader::default() };
            let odd = session.record(&leaf, &header, seq).odd;
            (odd, session.principal.clone(), session.source[3].clone())
        };
        let owner = || ("shop".to_owned(), "web".to_owned());
        let first = record("shop", web, 0);
        assert_eq!(first, (vec![], owner().0, owner().1));
        let other = Source { filter: "2", ..web };
        let stranger = Oddity::Principal { owner: "shop".into(), found: "evil".into() };
        for (principal, source, odd) in [
            ("shop", web, vec![]),
            ("evil", web, vec![stranger.clone()]),
            ("shop", other, vec![Oddity::Source]),
            ("evil", other, vec![stranger, Oddity::Source]),
        ] {
            assert_eq!(record(principal, source, 1), (odd, owner().0, owner().1));
        }
        assert!(session.is_of(b"shop", &web));
        assert!(!session.is_of(b"evil", &web) && !session.is_of(b"shop", &other));
    }

    #[test]
    fn batches_after_a_close_and_counters_that_fall_are_odd() {
        let mut session = Session::default();
        let mut record = |kind, counts: &[u64]| {
            let header = BatchHeader { kind, dropped: dropped(counts), ..BatchHeader::default() };
            session.record(&BatchLeaf::default(), &header, 0).odd
        };
        let fell = |reason, from, to| Oddity::DropsFell { reason, from, to };
        assert_eq!(record(BatchKind::Data, &[5, 5]), []);
        assert_eq!(record(BatchKind::Data, &[5, 6, 1]), []);
        assert_eq!(record(BatchKind::Data, &[4, 9, 1]), [fell(1, 5, 4)], "though the sum grew");
        assert_eq!(record(BatchKind::Close, &[4, 0, 1]), [fell(2, 9, 0)]);
        assert_eq!(record(BatchKind::Close, &[4, 0, 1]), [Oddity::AfterClose]);
    }

    #[test]
    fn what_a_session_lost_that_another_follows_is_told_by_both() {
        let record = |session: &mut Session, header: &BatchHeader<'_>| {
            session.record(&BatchLeaf::default(), header, 0);
        };
        let (mut former, mut next) = (Session::default(), Session::default());
        let header = BatchHeader { seq: 4, dropped: dropped(&[2]), ..BatchHeader::default() };
        record(&mut former, &header);
        let told = Previous { batches: 7, dropped: dropped(&[2, 9]), ..Previous::default() };
        let header = BatchHeader { previous: Some(told), ..BatchHeader::default() };
        record(&mut next, &header);
        assert_eq!(next.followed(&former), Some(Followed::Lost { batches: 2, calls: 9 }));
        let nothing = Session::default();
        assert_eq!(next.followed(&nothing), Some(Followed::Lost { batches: 7, calls: 11 }));
        assert_eq!(former.followed(&next), None);
        let foreign = Session { principal: "evil".into(), ..former.clone() };
        assert_eq!(next.followed(&foreign), Some(Followed::Foreign));
        let json = serde_json::to_string(&next).unwrap();
        assert_eq!(serde_json::from_str::<Session>(&json).unwrap(), next);
    }
}
