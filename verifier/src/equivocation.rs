//! The verdict on a proof that a session's key signed two batches for one place.

use crate::report::Verdict;
use crate::shown::shown;
use meshchain_core::equivocation::{Equivocation, FORMAT};
use serde::Serialize;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct EquivocationReport {
    /// `meshchain/equivocation-report/v1`.
    pub format: &'static str,
    /// `verified` where the proof holds, else `refuted`.
    pub verdict: Verdict,
    /// 0 or 1.
    pub exit_code: u8,
    /// Session id, hex, where the proof holds.
    pub session: Option<String>,
    /// Place in the session, where it holds.
    pub seq: Option<u64>,
    /// Chain values of the two batches, hex, where it holds.
    pub chains: Option<[String; 2]>,
    /// The conclusion, or why the file proves nothing.
    pub conclusion: String,
}

/// The verdict on a file that says it is such a proof; `None` for any other file.
pub fn judge_equivocation(bytes: &[u8]) -> Option<EquivocationReport> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    if value.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
        return None;
    }
    let proven = Equivocation::from_json(bytes).and_then(|proof| proof.check());
    let (verdict, conclusion) = match &proven {
        Ok(proven) => (
            Verdict::Verified,
            format!(
                "whoever holds the key of session {} signed two different batches for seq {}: by these \
                 signatures alone, whatever any log says",
                hex::encode(proven.session),
                proven.seq
            ),
        ),
        Err(fault) => (Verdict::Refuted, shown(fault.to_string())),
    };
    let proven = proven.ok();
    Some(EquivocationReport {
        format: "meshchain/equivocation-report/v1",
        exit_code: verdict.exit_code(),
        verdict,
        session: proven.as_ref().map(|proven| hex::encode(proven.session)),
        seq: proven.as_ref().map(|proven| proven.seq),
        chains: proven.map(|proven| proven.chains.map(hex::encode)),
        conclusion,
    })
}

impl EquivocationReport {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (number, chain) in (1..).zip(self.chains.iter().flatten()) {
            out +=
                &format!("batch {number}  ok  signed by the session's key: chain value {chain}\n");
        }
        let word = if self.exit_code == 0 { "verified: equivocation" } else { "refuted" };
        out + &format!("\n{word}: {}\n", self.conclusion)
    }
}
