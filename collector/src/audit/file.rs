//! The audit log in a directory: `audit.jsonl`, and the files that were it before they became too long.

use meshchain_core::Hash;
use meshchain_store::stands_at;
use meshchain_stored::audit_line::{
    AUDIT_FILE, CHAIN_START, line_hash, rotated_name, rotated_number,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Bytes that are read at once to find the end of a file; most lines have some 300.
const TAIL: u64 = 64 << 10;

/// The file that grows.
pub(super) struct AuditFile {
    directory: PathBuf,
    file: File,
    /// Its bytes up to the last line that was kept.
    kept: u64,
    rotate_at: u64,
}

impl AuditFile {
    /// Opens the file of a directory; also the hash of the last line that is there. A line that was cut off by the
    /// end of a process was acknowledged to nobody, and goes.
    pub(super) fn open(directory: &Path, rotate_at: u64) -> io::Result<(Self, Hash)> {
        let mut file = open(directory)?;
        let (last, kept) = last_line(&mut file)?;
        cut(&file, kept)?;
        let last = match (last, newest_rotated(directory)?) {
            (Some(last), _) => Some(last),
            (None, Some(number)) => {
                last_line(&mut File::open(directory.join(rotated_name(number)))?)?.0
            }
            (None, None) => None,
        };
        let prev = last.map_or(CHAIN_START, |line| line_hash(&line));
        Ok((Self { directory: directory.to_owned(), file, kept, rotate_at }, prev))
    }

    /// Appends whole lines and puts them on disk; nothing of them is left where that fails.
    pub(super) fn keep(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.kept >= self.rotate_at {
            self.rotate()?;
        }
        self.settle()?;
        // What an earlier try left, where it could not be taken back then.
        cut(&self.file, self.kept)?;
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.kept += lines.len() as u64,
            // Where this fails too, the next try does it.
            Err(_) => drop(cut(&self.file, self.kept)),
        }
        written
    }

    /// Sees to it that lines go to the file that stands in the directory. What somebody took away shows: the next line
    /// names one that is not there.
    fn settle(&mut self) -> io::Result<()> {
        let path = self.directory.join(AUDIT_FILE);
        if !stands_at(&self.file, &path)? {
            log::error!(
                "{} was taken away or exchanged: its lines are lost, a new one begins",
                path.display()
            );
            self.file = open(&self.directory)?;
            self.kept = self.file.metadata()?.len();
            File::open(&self.directory)?.sync_all()?;
        } else if self.file.metadata()?.len() < self.kept {
            log::error!("{} was cut: its last lines are lost", path.display());
            // The next line is none of the rest of one.
            self.kept = last_line(&mut self.file)?.1;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let number = newest_rotated(&self.directory)?.unwrap_or(0) + 1;
        let (from, to) =
            (self.directory.join(AUDIT_FILE), self.directory.join(rotated_name(number)));
        match fs::rename(from, to) {
            // An earlier try came as far as this.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = open(&self.directory)?;
        self.kept = 0;
        File::open(&self.directory)?.sync_all()
    }
}

fn open(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).open(directory.join(AUDIT_FILE))?;
    let found = file.metadata()?;
    // A pipe would never give its last line back; and what a link leads to is nobody's to cut.
    if found.file_type().is_fifo() {
        return Err(io::Error::other(format!("{AUDIT_FILE} is a pipe")));
    }
    if found.is_file() && directory.join(AUDIT_FILE).is_symlink() {
        return Err(io::Error::other(format!("{AUDIT_FILE} is a link to another file")));
    }
    Ok(file)
}

/// Cuts off what lies behind `len` bytes.
fn cut(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() == len { Ok(()) } else { file.set_len(len) }
}

/// The number of the file that was put aside last, if there is any.
pub(crate) fn newest_rotated(directory: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for file in fs::read_dir(directory)? {
        newest = newest.max(file?.file_name().to_str().and_then(rotated_number));
    }
    Ok(newest)
}

/// The last line that has its end, if there is one, and how long the file is up to there.
fn last_line(file: &mut File) -> io::Result<(Option<Vec<u8>>, u64)> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut span = TAIL;
    loop {
        let from = len.saturating_sub(span);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        (&mut *file).take(len - from).read_to_end(&mut tail)?;
        let end = tail.iter().rposition(|byte| *byte == b'\n');
        let begin = end.map(|end| tail[..end].iter().rposition(|byte| *byte == b'\n'));
        match (end, begin.flatten()) {
            (Some(end), Some(begin)) => {
                return Ok((Some(tail[begin + 1..end].to_vec()), from + end as u64 + 1));
            }
            (Some(end), None) if from == 0 => {
                return Ok((Some(tail[..end].to_vec()), end as u64 + 1));
            }
            (None, _) if from == 0 => return Ok((None, 0)),
            _ => span = span.saturating_mul(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshchain_stored::audit_line::ROTATE_AT;

    #[test]
    fn a_long_file_is_put_aside_and_the_last_line_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let open = || AuditFile::open(folder.path(), 8).unwrap();
        let (mut file, prev) = open();
        assert_eq!(prev, CHAIN_START);
        file.keep(b"one\ntwo\n").unwrap();
        assert_eq!(open().1, line_hash(b"two"));
        file.keep(b"three\n").unwrap();
        file.keep(b"four\n").unwrap();
        file.keep(b"five\n").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("audit-1.jsonl"), "one\ntwo\n");
        assert_eq!(read("audit-2.jsonl"), "three\nfour\n");
        assert_eq!(read("audit.jsonl"), "five\n");
        assert_eq!(open().1, line_hash(b"five"));
        fs::write(folder.path().join(AUDIT_FILE), "").unwrap();
        assert_eq!(open().1, line_hash(b"four"), "a crash after the rename");
    }

    #[test]
    fn lines_go_to_the_file_that_stands_there_whatever_became_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, _) = AuditFile::open(folder.path(), ROTATE_AT).unwrap();
        let path = folder.path().join(AUDIT_FILE);
        let read = || fs::read_to_string(&path).unwrap();
        file.keep(b"one\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.keep(b"two\n").unwrap();
        assert_eq!(read(), "two\n", "taken away");
        fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
        fs::write(&path, "").unwrap();
        file.keep(b"three\n").unwrap();
        assert_eq!(read(), "three\n", "exchanged");
        fs::write(&path, "").unwrap();
        file.keep(b"four\n").unwrap();
        file.keep(b"five\n").unwrap();
        assert_eq!(read(), "four\nfive\n", "cut in its place");
        fs::write(&path, "four\nfi").unwrap();
        file.keep(b"six\n").unwrap();
        assert_eq!(read(), "four\nsix\n", "cut within a line");
    }

    #[test]
    fn a_line_that_was_cut_off_goes_and_a_long_one_is_found_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(AUDIT_FILE);
        let long = vec![b'x'; 3 * TAIL as usize];
        fs::write(&path, [b"one\n", &long[..], b"\ncut"].concat()).unwrap();
        let (mut file, prev) = AuditFile::open(folder.path(), ROTATE_AT).unwrap();
        assert_eq!(prev, line_hash(&long));
        file.keep(b"next\n").unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"x\nnext\n"));
        fs::write(&path, "cut").unwrap();
        assert_eq!(AuditFile::open(folder.path(), ROTATE_AT).unwrap().1, CHAIN_START);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
