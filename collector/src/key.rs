//! The log's signing key: made once, kept in a file of its own, never overwritten.

use meshchain_core::{SigningKey, hash};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no usable key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// It holds something else.
    #[error("key file {0}: not 64 hexadecimal digits")]
    Malformed(PathBuf),
    /// Others may read it.
    #[error("key file {0} can be read by everybody: take the rights of others away (chmod o= {0})")]
    Exposed(PathBuf),
    /// It is of another log.
    #[error("key file {path} is of log {of}, not of {origin}")]
    OtherLog {
        /// The file.
        path: PathBuf,
        /// Origin in the file.
        of: String,
        /// Origin asked for.
        origin: String,
    },
    /// The origin cannot be the name of a log.
    #[error("origin {0:?} is not 1 to {MOST_ORIGIN} visible ASCII characters without a plus")]
    Origin(String),
    /// It is a directory, or another thing that no key is in.
    #[error("key file {0} is not a file")]
    NoFile(PathBuf),
}

/// Longest origin, in bytes: it stands in each line of the audit log.
const MOST_ORIGIN: usize = 255;

/// Loads the file as the key of the log `origin`; `None` where there is none.
///
/// The file has 64 hexadecimal digits, and in a second line the origin, if there was one when it was made. Without an
/// origin the log is named after its key, which is as unique and lasts as long. The group may read it, as Kubernetes
/// hands Secrets to programs that do not run as root.
pub fn load(path: &Path, origin: Option<&str>) -> Result<Option<SigningKey>, KeyError> {
    let Some((seed, of)) = read(path)? else { return Ok(None) };
    let origin = match (origin, of.as_deref()) {
        (Some(origin), Some(of)) if origin != of => {
            let (path, of, origin) = (path.to_owned(), of.to_owned(), origin.to_owned());
            return Err(KeyError::OtherLog { path, of, origin });
        }
        (given, of) => given.or(of),
    };
    named(&seed, origin).map(Some)
}

/// The key of a seed, for the log `origin`, or for one that is named after it.
fn named(seed: &[u8; 32], origin: Option<&str>) -> Result<SigningKey, KeyError> {
    let named = |name: &str| {
        let good = name.len() <= MOST_ORIGIN && name.bytes().all(|byte| byte.is_ascii_graphic());
        let key = SigningKey::from_seed(name, seed).ok().filter(|_| good);
        key.ok_or_else(|| KeyError::Origin(name.to_owned()))
    };
    match origin {
        Some(origin) => named(origin),
        None => {
            let public = named("meshchain.local")?.verifier().to_string();
            let id = hash::tagged(&[], &[public.as_bytes()]);
            named(&format!("meshchain.local/{}", hex::encode(&id[..8])))
        }
    }
}

/// A new key, which is nowhere yet.
pub struct NewKey {
    seed: [u8; 32],
    /// The key.
    pub key: SigningKey,
}

impl NewKey {
    /// Draws one for the log `origin`.
    pub fn draw(path: &Path, origin: Option<&str>) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        let failed = |e: getrandom::Error| {
            let source = io::Error::other(e.to_string());
            KeyError::Io { path: path.to_owned(), source }
        };
        getrandom::fill(&mut seed).map_err(failed)?;
        Ok(Self { seed, key: named(&seed, origin)? })
    }

    /// Writes it to a file beside its own first: what a crash leaves is no key.
    pub fn keep(&self, path: &Path, origin: Option<&str>) -> Result<(), KeyError> {
        create(path, origin, &self.seed)
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })
    }
}

/// Seed, and the origin where the file has one.
type KeyFile = ([u8; 32], Option<String>);

fn read(path: &Path) -> Result<Option<KeyFile>, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(KeyError::NoFile(path.to_owned()));
    }
    if metadata.mode() & 0o007 != 0 {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    let mut text = String::new();
    (&mut file).take(1024).read_to_string(&mut text).map_err(io)?;
    let mut seed = [0; 32];
    let (digits, origin) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
    let origin = Some(origin.trim().to_owned()).filter(|origin| !origin.is_empty());
    let decoded = hex::decode_to_slice(digits.trim(), &mut seed);
    decoded.map(|()| Some((seed, origin))).map_err(|_| KeyError::Malformed(path.to_owned()))
}

fn create(path: &Path, origin: Option<&str>, seed: &[u8; 32]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&unfinished)?;
    writeln!(file, "{}", hex::encode(seed))?;
    if let Some(origin) = origin {
        writeln!(file, "{origin}")?;
    }
    file.sync_all()?;
    // Unlike a rename, a link never replaces a key that appeared meanwhile.
    std::fs::hard_link(&unfinished, path)?;
    std::fs::remove_file(&unfinished)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_an_exposed_or_foreign_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        // What a start that was cut off leaves.
        std::fs::write(directory.path().join("key.unfinished"), "ab").unwrap();
        let load = |origin| super::load(&file, origin).map(Option::unwrap);
        assert!(super::load(&file, Some("o")).unwrap().is_none());
        let new = NewKey::draw(&file, Some("o")).unwrap();
        new.keep(&file, Some("o")).unwrap();
        let first = load(Some("o")).unwrap();
        assert_eq!(new.key.verifier(), first.verifier());
        let other = NewKey::draw(&file, Some("o")).unwrap();
        assert!(other.keep(&file, Some("o")).is_err(), "a key is never replaced");
        std::fs::remove_file(directory.path().join("key.unfinished")).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(load(None).unwrap().verifier(), first.verifier(), "it knows its log");
        assert!(matches!(load(Some("p")), Err(KeyError::OtherLog { .. })));
        assert!(load(Some("two words")).is_err());
        for (mode, good) in [(0o440, true), (0o660, true), (0o604, false), (0o601, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(Some("o")).is_ok(), good, "{mode:o}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, "short").unwrap();
        assert!(matches!(load(Some("o")), Err(KeyError::Malformed(_))));
        let other = directory.path().join("other");
        for origin in ["two words", "a+b", "", "\u{202e}", &"x".repeat(MOST_ORIGIN + 1)] {
            assert!(NewKey::draw(&other, Some(origin)).is_err(), "{origin}");
        }
        let unnamed = NewKey::draw(&other, None).unwrap();
        unnamed.keep(&other, None).unwrap();
        assert!(unnamed.key.verifier().name().starts_with("meshchain.local/"));
        let found = super::load(&other, None).unwrap().unwrap();
        assert_eq!(found.verifier(), unnamed.key.verifier());
        assert!(matches!(super::load(directory.path(), None), Err(KeyError::NoFile(_))));
    }
}
