//! Room and files on disk that are given up where something must be written and the disk is full.

use rustix::fs::fallocate;
use rustix::fs::{FallocateFlags, statvfs};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// File that is locked.
pub(crate) const LOCK: &str = "lock";
/// File of the reserve.
const RESERVE: &str = "reserve";
/// Its bytes: more than the tiles, the head and the checkpoint of the largest commit.
const SIZE: u64 = 16 << 20;
/// Folder of empty files, more than that commit makes files and folders: a disk may lack these alone.
const SPARE: &str = "spare";
const SPARE_FILES: usize = 24;
/// `st_blocks` counts these, whatever the file system's own blocks are (POSIX, `stat.h`).
const BLOCK: u64 = 512;

/// A file of a directory that takes room and holds nothing.
#[derive(Debug)]
pub(crate) struct Reserve {
    directory: PathBuf,
    held: AtomicBool,
}

impl Reserve {
    /// The reserve of a directory, as an earlier process left it.
    pub(crate) fn find(directory: &Path) -> Self {
        let found =
            fs::symlink_metadata(directory.join(RESERVE)).map(|found| (found.is_file(), found));
        let room =
            found.is_ok_and(|(file, m)| file && m.len() == SIZE && m.blocks() * BLOCK >= SIZE);
        let held = room && spare(directory).all(|path| path.is_file());
        Self { directory: directory.to_owned(), held: AtomicBool::new(held) }
    }

    /// Whether it is there.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Whether the directory's lock is still this file: the directory was not exchanged, nor its lock lost. Blocks.
    pub(crate) fn is_beside(&self, lock: &File) -> io::Result<bool> {
        stands_at(lock, &self.directory.join(LOCK))
    }

    /// Makes it, unless it is there. Blocks.
    pub(crate) fn hold(&self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        let path = self.directory.join(RESERVE);
        // Whatever stands there under its name goes first: what a link leads to is nobody's to write.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let made = File::create_new(&path).and_then(|file| take_room(&file));
        let made = made.and_then(|()| self.take_files());
        match made {
            Ok(()) => self.held.store(true, Ordering::Release),
            Err(_) => drop(self.let_go()),
        }
        made
    }

    fn take_files(&self) -> io::Result<()> {
        let folder = self.directory.join(SPARE);
        // As with the reserve itself: what a link leads to is nobody's to fill.
        if folder.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(&folder)?;
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for path in spare(&self.directory) {
            match File::create_new(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn let_go(&self) -> bool {
        for path in spare(&self.directory) {
            let _ = fs::remove_file(path);
        }
        fs::remove_file(self.directory.join(RESERVE)).is_ok()
    }

    /// Gives its room up; false where there was none. Blocks.
    pub(crate) fn give_up(&self) -> bool {
        self.held.swap(false, Ordering::AcqRel) && self.let_go()
    }

    /// Bytes that this process may still write there.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let found = statvfs(&self.directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

fn spare(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = directory.join(SPARE);
    (0..SPARE_FILES).map(move |number| folder.join(number.to_string()))
}

/// Whether an open file is still the one that a path leads to: nobody took it away or put another one there. Blocks.
pub fn stands_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn take_room(mut file: &File) -> io::Result<()> {
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, SIZE) {
        Ok(()) => {}
        // A file system that cannot.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = [0; 64 << 10];
            for _ in 0..SIZE / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_until_it_is_given_up_and_found_again_only_where_it_takes_room() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::find(folder.path());
        assert!(!reserve.is_held() && !reserve.give_up());
        reserve.hold().unwrap();
        reserve.hold().unwrap();
        assert!(Reserve::find(folder.path()).is_held());
        assert_eq!(fs::read_dir(folder.path().join(SPARE)).unwrap().count(), SPARE_FILES);
        fs::remove_file(folder.path().join(SPARE).join("7")).unwrap();
        assert!(!Reserve::find(folder.path()).is_held(), "a file of it is not there");
        assert!(reserve.give_up());
        assert!(!folder.path().join(RESERVE).exists() && !reserve.is_held());
        assert_eq!(fs::read_dir(folder.path().join(SPARE)).unwrap().count(), 0);
        let other = folder.path().join("other");
        fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join(RESERVE)).unwrap();
        reserve.hold().unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"precious", "no link is followed");
        assert!(reserve.give_up());
        fs::remove_dir(folder.path().join(SPARE)).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), folder.path().join(SPARE))
            .unwrap();
        reserve.hold().unwrap();
        assert!(!folder.path().join("elsewhere").exists() && reserve.give_up());
        let sparse = File::create(folder.path().join(RESERVE)).unwrap();
        sparse.set_len(SIZE).unwrap();
        let found = Reserve::find(folder.path());
        assert!(!found.is_held(), "a copy that left the holes out takes no room");
        found.hold().unwrap();
        assert!(found.is_held() && found.free_bytes().unwrap() > 0);
    }
}
