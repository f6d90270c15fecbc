//! What keeps a log from growing: chains that were not asked about its past yet, and what contradicts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Who speaks of another history than the log's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// What lies beside the log, or in it: what that says, it says for good.
    Kept,
    /// The node of a chain, which may take its word back.
    Node {
        /// Chain as configured.
        chain: String,
    },
}

/// Why a log takes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// Something speaks of another history than its own.
    OtherHistory(String),
    /// These chains were not asked yet what they hold of it.
    Unasked(Vec<String>),
}

impl fmt::Display for Barred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherHistory(why) => f.write_str(why),
            Self::Unasked(chains) => {
                write!(f, "not compared yet with what chain {} holds of it", chains.join(", "))
            }
        }
    }
}

/// Whether a log may grow.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    unasked: BTreeSet<String>,
    against: BTreeMap<Witness, String>,
}

impl Growth {
    pub(crate) fn must_ask(&mut self, chain: &str) {
        self.unasked.insert(chain.to_owned());
    }

    /// Notes what a witness says; `false` where it has said something before, which counts.
    pub(crate) fn halt(&mut self, by: &Witness, why: &str) -> bool {
        if let Witness::Node { chain } = by {
            self.unasked.remove(chain);
        }
        let new = !self.against.contains_key(by);
        if new {
            self.against.insert(by.clone(), why.to_owned());
        }
        new
    }

    /// Notes that what a chain holds fits; gives what its node had said before.
    pub(crate) fn fits(&mut self, chain: &str) -> Option<String> {
        self.unasked.remove(chain);
        self.against.remove(&Witness::Node { chain: chain.to_owned() })
    }

    pub(crate) fn barred(&self) -> Option<Barred> {
        if let Some(why) = self.against.values().next() {
            return Some(Barred::OtherHistory(why.clone()));
        }
        let chains = || self.unasked.iter().cloned().collect();
        (!self.unasked.is_empty()).then(|| Barred::Unasked(chains()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(chain: &str) -> Witness {
        Witness::Node { chain: chain.to_owned() }
    }

    fn other(why: &str) -> Option<Barred> {
        Some(Barred::OtherHistory(why.to_owned()))
    }

    #[test]
    fn every_chain_is_waited_for_until_it_was_asked_whatever_the_others_say() {
        let mut growth = Growth::default();
        assert_eq!(growth.barred(), None);
        growth.must_ask("b");
        growth.must_ask("a");
        assert_eq!(growth.barred(), Some(Barred::Unasked(vec!["a".into(), "b".into()])));
        assert_eq!(growth.fits("b"), None);
        assert_eq!(growth.fits("c"), None);
        assert_eq!(growth.barred(), Some(Barred::Unasked(vec!["a".into()])));
        assert!(growth.halt(&node("a"), "a says"));
        assert_eq!(growth.barred(), other("a says"));
        assert_eq!(growth.fits("a"), Some("a says".into()));
        assert_eq!(growth.barred(), None);
    }

    #[test]
    fn a_node_takes_back_its_own_word_and_no_other_one() {
        let mut growth = Growth::default();
        assert!(growth.halt(&node("a"), "a says"));
        assert!(!growth.halt(&node("a"), "a says more"), "the first reason counts");
        assert!(growth.halt(&node("b"), "b says"));
        assert!(growth.halt(&Witness::Kept, "a file says"));
        assert_eq!(growth.barred(), other("a file says"), "what is for good is told first");
        assert_eq!(growth.fits("a"), Some("a says".into()));
        assert_eq!(growth.fits("a"), None);
        assert_eq!(growth.fits("b"), Some("b says".into()));
        assert_eq!(growth.barred(), other("a file says"));
    }
}
