//! What keeps batches from the collector, told once each time that it changes.

use crate::host::{Host, Level};

/// Why a batch did not get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem<'a> {
    /// Envoy has no cluster of this name, or takes no call for it.
    NoCluster(&'a str),
    /// The connection broke off, or no answer came in time.
    NoAnswer,
    /// Somebody answered, and did not take it.
    Answer(u16),
}

/// The problem there is, if any.
#[derive(Debug, Default)]
pub struct Trouble {
    /// As it was told last.
    told: Option<String>,
    count: u64,
}

impl Trouble {
    /// A batch did not get there.
    pub fn meet(&mut self, host: &impl Host, problem: Problem<'_>) {
        self.count += 1;
        let text = match problem {
            Problem::NoCluster(name) => {
                format!("Envoy makes no call to cluster {name:?}: is collector_cluster right?")
            }
            Problem::NoAnswer => "the collector does not answer".to_owned(),
            Problem::Answer(status) => format!("the collector answers {status}"),
        };
        if self.told.as_ref() != Some(&text) {
            host.log(Level::Warn, &format!("meshchain: batches wait: {text}"));
            self.told = Some(text);
        }
    }

    /// A batch got there.
    pub fn end(&mut self, host: &impl Host) {
        if self.told.take().is_some() {
            host.log(Level::Warn, "meshchain: the collector takes batches again");
        }
    }

    /// Attempts that failed.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_host::TestHost;

    #[test]
    fn a_problem_is_told_when_it_comes_changes_and_goes() {
        let host = TestHost::default();
        let mut trouble = Trouble::default();
        trouble.end(&host);
        assert_eq!(host.log.borrow().len(), 0);
        for _ in 0..5 {
            trouble.meet(&host, Problem::NoAnswer);
        }
        assert_eq!((host.log.borrow().len(), trouble.count()), (1, 5));
        trouble.meet(&host, Problem::Answer(404));
        trouble.meet(&host, Problem::Answer(503));
        trouble.meet(&host, Problem::NoCluster("outbound|80||x"));
        assert_eq!(host.log.borrow().len(), 4);
        trouble.end(&host);
        trouble.end(&host);
        assert_eq!(host.log.borrow().len(), 5);
        trouble.meet(&host, Problem::Answer(404));
        assert_eq!(host.log.borrow().len(), 6, "again");
    }
}
