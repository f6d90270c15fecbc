//! What one batch costs its principal, until it is known what became of it.

use crate::quota::{Quotas, Reached};
use crate::refusal::Refusal;

/// What was charged for a batch.
pub struct Charge<'a> {
    quotas: &'a Quotas,
    principal: &'a str,
    bytes: u64,
    opens: bool,
}

impl<'a> Charge<'a> {
    /// Nothing yet. What is not given back is paid, as where the sender goes away before the answer.
    pub fn new(quotas: &'a Quotas, principal: &'a str) -> Self {
        Self { quotas, principal, bytes: 0, opens: false }
    }

    /// Who pays.
    pub fn principal(&self) -> &str {
        self.principal
    }

    fn limited(&self, reached: Reached) -> Refusal {
        let Reached { limit, retry_after_s } = reached;
        Refusal::Limited { limit, principal: self.principal.to_owned(), retry_after_s }
    }

    /// Charges a batch of so many bytes.
    pub fn batch(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.quotas.batch(self.principal, bytes).map_err(|reached| self.limited(reached))?;
        self.bytes = bytes;
        Ok(())
    }

    /// Charges a session that the batch opens; where there can be none, nothing of the batch.
    pub fn session(&mut self) -> Result<(), Refusal> {
        if let Err(reached) = self.quotas.session(self.principal) {
            self.all_back();
            return Err(self.limited(reached));
        }
        self.opens = true;
        Ok(())
    }

    /// The batch opened no session.
    pub fn session_back(&mut self) {
        if std::mem::take(&mut self.opens) {
            self.quotas.session_back(self.principal);
        }
    }

    /// The batch was not taken, and will come again.
    pub fn all_back(&mut self) {
        self.session_back();
        self.quotas.batch_back(self.principal, std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Limits;

    #[test]
    fn what_was_not_taken_can_be_sent_again_and_what_opens_nothing_costs_no_session() {
        let limits = Limits { batches_per_second: 1000, bytes_per_day: 10, sessions_per_day: 2 };
        let quotas = Quotas::new(limits);
        let charge = || Charge::new(&quotas, "shop");
        for _ in 0..5 {
            let mut turned_away = charge();
            assert!(turned_away.batch(10).is_ok() && turned_away.session().is_ok());
            turned_away.all_back();
            turned_away.all_back();
        }
        let opens = || {
            let mut one = charge();
            (one.batch(0).and_then(|()| one.session()).is_ok(), one)
        };
        assert!(opens().0, "its sender went away: it is paid");
        for _ in 0..5 {
            let (charged, mut again) = opens();
            assert!(charged);
            again.session_back();
        }
        assert!(opens().0);
        assert!(!opens().0, "two were opened");
        let mut whole = charge();
        assert!(whole.batch(10).is_ok());
        assert!(charge().batch(1).is_err());
        let mut no_session = charge();
        whole.all_back();
        assert!(no_session.batch(10).is_ok() && no_session.session().is_err());
        assert!(charge().batch(10).is_ok(), "a batch without a session costs nothing");
    }
}
