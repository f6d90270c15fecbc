//! Reading the Parquet files of a segment a part at a time, and comparing one with what its rows
//! make when they are written anew.

use meshchain_stored::FileError;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// A panic of this thread is caught and told in words.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}
static HOOK: Once = Once::new();

/// Reads from a Parquet file. Its reader is made for files that are whole: where it panics on a
/// damaged one, that is one more way to say so.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, FileError>) -> Result<T, String> {
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    QUIET.set(false);
    match read {
        Ok(read) => read.map_err(|e| e.to_string()),
        Err(_) => Err("its pages are not what its footer says".to_owned()),
    }
}

/// Rows read in order, many at once.
pub(crate) struct Chunks<T> {
    most: u32,
    start: u32,
    items: Vec<T>,
    /// A read of many failed: up to here only what is asked for is read.
    narrow: u32,
}

impl<T> Chunks<T> {
    /// `most`: rows to read at once.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, start: 0, items: Vec::new(), narrow: 0 }
    }

    /// Some rows of a file that has `total`.
    pub(crate) fn get(
        &mut self,
        rows: Range<u32>,
        total: u64,
        read: impl Fn(Range<u32>) -> Result<Vec<T>, FileError>,
    ) -> Result<&[T], String> {
        if u64::from(rows.end) > total || rows.start > rows.end {
            return Err(format!("has only {total} rows"));
        }
        let held = u64::from(self.start) + self.items.len() as u64;
        if rows.start < self.start || u64::from(rows.end) > held {
            self.items.clear();
            let total = u32::try_from(total).unwrap_or(u32::MAX);
            let end = rows.start.saturating_add(self.most).min(total).max(rows.end);
            let mut found = None;
            if rows.start >= self.narrow {
                found = guarded(|| read(rows.start..end)).ok();
                self.narrow = if found.is_none() { end } else { self.narrow };
            }
            let found = match found {
                Some(found) => found,
                None => guarded(|| read(rows.clone()))?,
            };
            (self.start, self.items) = (rows.start, found);
        }
        let (from, to) = ((rows.start - self.start) as usize, (rows.end - self.start) as usize);
        self.items.get(from..to).ok_or_else(|| "fewer rows than asked for".to_owned())
    }
}

/// Compares what is written to it with a file.
pub(crate) struct Compare {
    file: BufReader<File>,
    at: u64,
    differs: Option<u64>,
}

impl Compare {
    pub(crate) fn new(file: File) -> Self {
        Self { file: BufReader::with_capacity(1 << 16, file), at: 0, differs: None }
    }

    /// First byte that differs, when all is written.
    pub(crate) fn finish(mut self) -> Option<u64> {
        let more = self.file.read(&mut [0]).is_ok_and(|n| n > 0);
        self.differs.or(more.then_some(self.at))
    }
}

impl Write for Compare {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.differs.is_some() {
            return Ok(bytes.len());
        }
        let mut found = vec![0; bytes.len()];
        let mut read = 0;
        while read < found.len() {
            match self.file.read(&mut found[read..])? {
                0 => break,
                n => read += n,
            }
        }
        let same = found[..read].iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if same < bytes.len() {
            self.differs = Some(self.at + same as u64);
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Leaves of which the same is wrong, put together where they follow each other.
#[derive(Default)]
pub(crate) struct Runs(Vec<Run>);

/// Some leaves in a row.
pub(crate) struct Run {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The leaf that would go on.
    next: u64,
    kind: &'static str,
    /// What is wrong with the first.
    pub(crate) fault: String,
}

impl Runs {
    pub(crate) fn push(&mut self, leaf: u64, kind: &'static str, fault: String) {
        match self.0.last_mut() {
            // A leaf may have several faults.
            Some(run) if (run.to == leaf || run.next == leaf) && run.kind == kind => {
                (run.to, run.next) = (leaf, leaf + 1);
            }
            _ => self.0.push(Run { from: leaf, to: leaf, next: leaf + 1, kind, fault }),
        }
    }

    /// There is nothing of this leaf that could be wrong.
    pub(crate) fn skip(&mut self, leaf: u64) {
        if let Some(run) = self.0.last_mut().filter(|run| run.next == leaf) {
            run.next += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }
}

impl Run {
    /// The leaves in words.
    pub(crate) fn leaves(&self) -> String {
        match self.from == self.to {
            true => format!("leaf {}", self.from),
            false => format!("leaves {} to {}", self.from, self.to),
        }
    }

    /// What is wrong, in words.
    pub(crate) fn words(&self) -> String {
        let more = if self.from == self.to { "" } else { ", the same in those after it" };
        format!("leaf {}: {}{more}", self.from, self.fault)
    }
}
