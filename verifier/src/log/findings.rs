//! What a check of a whole log found.

use crate::shown::shown;
use serde::Serialize;

/// Name and version of the JSON report.
pub const FSCK_FORMAT: &str = "meshchain/fsck/v1";

/// Most damages that are told one by one; the others are counted.
const MAX_DAMAGES: usize = 1000;
/// Most gaps, and most oddities, that are told one by one; the others are counted.
const MAX_GAPS: usize = 100;
/// Most notes that are told.
const MAX_NOTES: usize = 100;

/// What the check ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FsckVerdict {
    /// Everything was checked and holds together.
    Clean,
    /// Something is damaged, missing or contradicts itself.
    Damaged,
    /// Nothing damaged was found, but not all could be checked.
    NotChecked,
}

impl FsckVerdict {
    /// 0 clean, 1 damaged, 2 could not check.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Damaged => 1,
            Self::NotChecked => 2,
        }
    }
}

/// Whether the checkpoint's signature was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "detail")]
pub enum SignatureCheck {
    /// No key; why.
    NotChecked(String),
    /// Signed by this key.
    Ok(String),
    /// There is no readable checkpoint, or it is not signed by the key.
    #[default]
    Failed,
}

/// One damage: where, what, and what is lost by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// File, below the data directory or URL.
    pub file: String,
    /// Byte in the file where it begins; none for a missing file.
    pub offset: Option<u64>,
    /// What is wrong.
    pub fault: String,
    /// What it costs.
    pub cost: String,
    /// First and last leaf that it is about.
    pub leaves: Option<(u64, u64)>,
}

/// Batches of a session that never came: a fact that the log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Session id, hex.
    pub session: String,
    /// First missing seq.
    pub from: u64,
    /// Last missing seq.
    pub to: u64,
    /// Leaf after the gap.
    pub leaf: u64,
}

/// What no honest proxy does: a fact that the log holds, and no damage of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OddBatch {
    /// Session id, hex.
    pub session: String,
    /// The leaf.
    pub leaf: u64,
    /// What is odd.
    pub what: String,
}

/// The result of a check of a log.
#[derive(Debug, Clone, Serialize)]
pub struct FsckReport {
    /// [`FSCK_FORMAT`].
    pub format: &'static str,
    /// The verdict.
    pub verdict: FsckVerdict,
    /// Exit code of the verdict.
    pub exit_code: u8,
    /// Directory or URL.
    pub source: String,
    /// Origin of the checkpoint.
    pub origin: Option<String>,
    /// Leaves of the tree that was recomputed.
    pub size: Option<u64>,
    /// Its root in the checkpoint, hex.
    pub root: Option<String>,
    /// Whether all leaves hash to that root.
    pub root_recomputed: bool,
    /// The checkpoint's signature.
    pub signature: SignatureCheck,
    /// Leaves that were read and decoded.
    pub leaves: u64,
    /// Entries that these leaves count.
    pub entries: u64,
    /// Entries that were checked against their leaf, in staging bundles and segments.
    pub entries_checked: u64,
    /// Records that were checked against their entry, in staging bundles and segments.
    pub records_checked: u64,
    /// Leaves that are signed by their session's key.
    pub signatures_ok: u64,
    /// Tiles and entry bundles that were compared.
    pub tiles: u64,
    /// Staging bundles that were read.
    pub pools: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Of the entries checked, those in segments.
    pub segment_entries: u64,
    /// Of the records checked, those in segments.
    pub segment_records: u64,
    /// Final anchors that are kept, each of them what its proof proves.
    pub anchors: u64,
    /// Final anchors on the chains that were asked, each of this log's tree where nothing else is told.
    pub anchors_on_chain: u64,
    /// Sessions in the log.
    pub sessions: u64,
    /// Gaps in sessions: proxies' batches that never came. No damage.
    pub gaps: u64,
    /// Batches in these gaps.
    pub missing_batches: u64,
    /// The first 100 gaps.
    pub gap_list: Vec<Gap>,
    /// Oddities of sessions: two senders or sources in one, batches after its close, counters of lost
    /// calls that fell. No damage.
    pub oddities: u64,
    /// The first 100 of them.
    pub oddity_list: Vec<OddBatch>,
    /// Sessions that follow one which a refusal ended.
    pub refusals: u64,
    /// Batches that these say they sealed and that the log does not have.
    pub refused_batches: u64,
    /// Calls that these say were lost by it.
    pub refused_calls: u64,
    /// Damages, in the order found.
    pub damages: Vec<Damage>,
    /// Damages beyond the first 1000.
    pub more_damages: u64,
    /// Files that were written again before this check.
    pub repaired: Vec<String>,
    /// Files that can be written again, with their right bytes.
    #[serde(skip)]
    pub(crate) repairs: Vec<(String, Vec<u8>)>,
    /// Files that are evidence, and in the place of what is to be: from where to where they can be moved.
    #[serde(skip)]
    pub(crate) moves: Vec<(String, String)>,
    /// Facts that are no damage.
    pub notes: Vec<String>,
    /// What could not be checked.
    pub unchecked: Vec<String>,
}

impl FsckReport {
    pub(crate) fn new(source: String) -> Self {
        Self {
            format: FSCK_FORMAT,
            verdict: FsckVerdict::NotChecked,
            exit_code: FsckVerdict::NotChecked.exit_code(),
            source: shown(source),
            origin: None,
            size: None,
            root: None,
            root_recomputed: false,
            signature: SignatureCheck::Failed,
            leaves: 0,
            signatures_ok: 0,
            entries: 0,
            entries_checked: 0,
            records_checked: 0,
            tiles: 0,
            pools: 0,
            segments: 0,
            segment_entries: 0,
            segment_records: 0,
            anchors: 0,
            anchors_on_chain: 0,
            sessions: 0,
            gaps: 0,
            missing_batches: 0,
            gap_list: Vec::new(),
            oddities: 0,
            oddity_list: Vec::new(),
            refusals: 0,
            refused_batches: 0,
            refused_calls: 0,
            damages: Vec::new(),
            more_damages: 0,
            repaired: Vec::new(),
            repairs: Vec::new(),
            moves: Vec::new(),
            notes: Vec::new(),
            unchecked: Vec::new(),
        }
    }

    pub(crate) fn damage(&mut self, mut damage: Damage) {
        if self.damages.len() >= MAX_DAMAGES {
            self.more_damages += 1;
            return;
        }
        damage.file = shown(damage.file);
        self.damages.push(damage);
    }

    pub(crate) fn gap(&mut self, gap: Gap) {
        self.gaps += 1;
        self.missing_batches = self.missing_batches.saturating_add(gap.to - gap.from + 1);
        if self.gap_list.len() < MAX_GAPS {
            self.gap_list.push(gap);
        }
    }

    pub(crate) fn odd(&mut self, session: String, leaf: u64, what: String) {
        self.oddities += 1;
        if self.oddity_list.len() < MAX_GAPS {
            self.oddity_list.push(OddBatch { session, leaf, what: shown(what) });
        }
    }

    pub(crate) fn is_damaged(&self, file: &str) -> bool {
        self.damages.iter().any(|damage| damage.file == file)
    }

    pub(crate) fn note(&mut self, note: impl AsRef<str>) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(shown(note.as_ref()));
        }
    }

    pub(crate) fn not_checked(&mut self, what: impl AsRef<str>) {
        self.unchecked.push(shown(what.as_ref()));
    }

    /// Sets the verdict.
    pub(crate) fn conclude(mut self) -> Self {
        self.verdict = match (self.damages.is_empty(), self.unchecked.is_empty()) {
            (false, _) => FsckVerdict::Damaged,
            (true, false) => FsckVerdict::NotChecked,
            (true, true) => FsckVerdict::Clean,
        };
        self.exit_code = self.verdict.exit_code();
        self
    }
}
