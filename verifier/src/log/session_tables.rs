//! Session tables, made again from the leaves and compared with the stored ones.

use super::check::Fsck;
use super::findings::Damage;
use super::rows::Compare;
use super::segments::sealed_now;
use super::source::SourceError;
use crate::shown::quoted;
use meshchain_stored::sealed::SealedState;
use meshchain_stored::{SegmentName, parse_table_path, table_path};

impl Fsck<'_> {
    /// Compares the tables that end at `at`, when all leaves below it were read; each once.
    pub(super) fn session_tables(&mut self, at: u64) {
        let Some(state) = self.sealed.state.as_ref() else { return };
        let next = state.sessions.get(self.sealed.compared).copied();
        let Some(name) = next.filter(|name| name.end == at) else { return };
        if state.end() > self.heads.published.size {
            return; // sealed meanwhile
        }
        self.sealed.compared += 1;
        if self.sealed.lost {
            let path = table_path(&name);
            return self.report.note(format!("{path} was not compared: leaves are lost"));
        }
        let compared = self.compare_table(name);
        self.keep(compared);
    }

    fn compare_table(&mut self, name: SegmentName) -> Result<(), SourceError> {
        let path = table_path(&name);
        let Some(file) = self.source.file(&path)? else {
            // A running collector puts tables together.
            let gone = |now: SealedState| !now.sessions.contains(&name);
            if sealed_now(self.source)?.is_some_and(gone) {
                self.moved = true;
                return Ok(());
            }
            return self.table_damage(name, None, "missing");
        };
        let compared = self.sessions.table(name, Compare::new(file));
        let compared = compared.map_err(|e| SourceError::unreadable(&path, e))?;
        match compared.finish() {
            None => Ok(()),
            at => self.table_damage(name, at, "not the table of the sessions of its leaves"),
        }
    }

    fn table_damage(
        &mut self,
        name: SegmentName,
        offset: Option<u64>,
        fault: &str,
    ) -> Result<(), SourceError> {
        let path = table_path(&name);
        let again = self.sessions.table(name, Vec::new());
        self.report.repairs.extend(again.ok().map(|bytes| (path.clone(), bytes)));
        self.report.damage(Damage {
            file: path,
            offset,
            fault: fault.to_owned(),
            cost: "the collector does not start, or answers late batches of its sessions with 503 and seals \
                   nothing more; nothing is lost: --repair writes it anew"
                .to_owned(),
            leaves: None,
        });
        Ok(())
    }

    /// Notes what lies beside the tables.
    pub(super) fn other_tables(&mut self) -> Result<(), SourceError> {
        let Some(state) = self.sealed.state.as_ref() else { return Ok(()) };
        for item in self.source.list("sessions")?.unwrap_or_default() {
            let known = |name: SegmentName| state.sessions.contains(&name);
            if !parse_table_path(&item.name).is_some_and(known) {
                self.report.note(format!(
                    "{} is no table in `sealed`: being written, or left by a crash; the next start \
                     deletes it",
                    quoted(&item.name)
                ));
            }
        }
        Ok(())
    }
}
