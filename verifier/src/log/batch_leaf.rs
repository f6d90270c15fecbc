//! The batch leaves: what each says, how it follows its session, and what is stored of its batch.

use super::check::Fsck;
use super::findings::{Damage, FsckReport, Gap};
use super::sessions::Follows;
use super::tiles::Column;
use crate::shown::shown;
use meshchain_core::tile::{TILE_WIDTH, TileKind};
use meshchain_core::{BatchLeaf, Canonical, Hash, merkle};
use meshchain_stored::Followed;

impl Fsck<'_> {
    pub(super) fn leaf_bytes(
        &mut self,
        leaf: u64,
        at: usize,
        hash: Option<Hash>,
        bundle: Option<&Column>,
    ) -> Option<Vec<u8>> {
        let own = bundle.filter(|b| b.hashes.get(at).copied() == hash && hash.is_some());
        if let Some(bytes) = own.and_then(|b| b.part(at)) {
            return Some(bytes.to_vec());
        }
        let found = self.staging.as_mut()?.leaf(leaf).ok()??;
        (Some(merkle::leaf_hash(&found)) == hash).then_some(found)
    }

    /// What the leaf says, and how it follows its session.
    pub(super) fn leaf(&mut self, at: u64, bytes: Option<&[u8]>, bundle: &Option<Column>) {
        self.session_tables(at);
        let Some(bytes) = bytes else {
            self.sealed.lost |= at < self.sealed.end;
            return;
        };
        let within = (at % TILE_WIDTH) as usize;
        let (file, offset) = match bundle {
            Some(b) => (b.file.clone(), Some(b.offset(within, TileKind::Entries) as u64)),
            None => (self.staging.as_ref().map_or_else(String::new, |s| s.file_of(at)), None),
        };
        let place = |report: &mut FsckReport, fault: String, cost: &str| {
            let (file, cost) = (file.clone(), cost.to_owned());
            report.damage(Damage { file, offset, fault, cost, leaves: Some((at, at)) });
        };
        let batch = BatchLeaf::decode(bytes);
        let (batch, header) = match batch.and_then(|b| b.parse_header().map(|h| (b, h))) {
            Ok(both) => both,
            Err(e) => {
                self.sealed.lost |= at < self.sealed.end;
                let fault = format!("leaf {at}: {}", shown(e.to_string()));
                return place(
                    &mut self.report,
                    fault,
                    "the log's key signed what is no batch leaf",
                );
            }
        };
        self.report.leaves += 1;
        self.report.entries += u64::from(header.count);
        self.signatures.push(batch.signed(), at, &file, offset);
        let (follows, step) = self.sessions.push(at, &batch, &header);
        self.told.expect(at, &batch, &header, &step);
        for what in step.odd {
            self.report.odd(hex::encode(header.session), at, what.to_string());
        }
        match follows {
            Follows::InOrder => {}
            Follows::AfterGap(batches) => self.report.gap(Gap {
                session: hex::encode(header.session),
                from: header.seq - batches,
                to: header.seq - 1,
                leaf: at,
            }),
            Follows::Contradicts(why) => {
                let cost = "the session shows two histories: neither proves what the proxy saw";
                place(&mut self.report, format!("leaf {at}: {why}"), cost);
            }
        }
        if self.signatures.is_full() {
            self.signatures.check(&mut self.report);
        }
    }

    /// What sessions that follow others say of these.
    pub(super) fn followed(&mut self) {
        for (id, leaf, followed) in self.sessions.followed() {
            match followed {
                Followed::Lost { batches, calls } => {
                    self.report.refusals += 1;
                    self.report.refused_batches =
                        self.report.refused_batches.saturating_add(batches);
                    self.report.refused_calls = self.report.refused_calls.saturating_add(calls);
                }
                Followed::Foreign => {
                    let what = "says that it follows a session of another sender or source";
                    self.report.odd(hex::encode(id), leaf, what.to_owned());
                }
            }
        }
    }

    /// The entries and records of a leaf, in its segment or staging bundle.
    pub(super) fn stored(&mut self, leaf: u64, bytes: Option<&[u8]>, hash: Option<Hash>) {
        if let Some(segments) = self.segments.as_mut().filter(|s| leaf < s.end()) {
            let checked = segments.check(leaf, bytes, hash, &mut self.report);
            self.keep(checked);
        } else if let Some(staging) = &mut self.staging {
            let checked = staging.check(leaf, bytes, hash, &mut self.report);
            self.keep(checked);
        } else {
            self.served(leaf, bytes);
        }
    }
}
