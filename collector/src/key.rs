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
    /// The origin cannot be the name of a key.
    #[error("origin {0:?} has a space, a plus or nothing in it")]
    Origin(String),
}

/// Loads the file as the key of the log `origin`, or makes it. True where it is new.
///
/// The file has 64 hexadecimal digits, and in a second line the origin, if there was one when it was made. Without an
/// origin the log is named after its key, which is as unique and lasts as long. The group may read it, as Kubernetes
/// hands Secrets to programs that do not run as root.
pub fn load_or_create(path: &Path, origin: Option<&str>) -> Result<(SigningKey, bool), KeyError> {
    if let Some(origin) = origin {
        SigningKey::from_seed(origin, &[0; 32]).map_err(|_| KeyError::Origin(origin.to_owned()))?;
    }
    let (seed, of, new) = match read(path)? {
        Some((seed, of)) => (seed, of, false),
        None => (create(path, origin)?, None, true),
    };
    let origin = match (origin, of.as_deref()) {
        (Some(origin), Some(of)) if origin != of => {
            let (path, of, origin) = (path.to_owned(), of.to_owned(), origin.to_owned());
            return Err(KeyError::OtherLog { path, of, origin });
        }
        (given, of) => given.or(of),
    };
    let named = |name: &str| {
        SigningKey::from_seed(name, &seed).map_err(|_| KeyError::Origin(name.to_owned()))
    };
    let key = match origin {
        Some(origin) => named(origin)?,
        None => {
            let public = named("meshchain.local")?.verifier().to_string();
            let id = hash::tagged(&[], &[public.as_bytes()]);
            named(&format!("meshchain.local/{}", hex::encode(&id[..8])))?
        }
    };
    Ok((key, new))
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
    if file.metadata().map_err(io)?.mode() & 0o007 != 0 {
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

/// Writes the key to a file beside it first: what a crash leaves is no key, and the next start makes
/// one.
fn create(path: &Path, origin: Option<&str>) -> Result<[u8; 32], KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| io(io::Error::other(e.to_string())))?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&unfinished).map_err(io)?;
    writeln!(file, "{}", hex::encode(seed)).map_err(io)?;
    if let Some(origin) = origin {
        writeln!(file, "{origin}").map_err(io)?;
    }
    file.sync_all().map_err(io)?;
    // Unlike a rename, a link never replaces a key that appeared meanwhile.
    std::fs::hard_link(&unfinished, path).map_err(io)?;
    std::fs::remove_file(&unfinished).map_err(io)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).map_err(io)?;
    Ok(seed)
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
        let load = |origin| load_or_create(&file, origin);
        let (first, new) = load(Some("o")).unwrap();
        let (second, again) = load(Some("o")).unwrap();
        assert_eq!((first.verifier(), new, again), (second.verifier(), true, false));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(load(None).unwrap().0.verifier(), first.verifier(), "it knows its log");
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
        assert!(load_or_create(&other, Some("two words")).is_err() && !other.exists());
        let (unnamed, _) = load_or_create(&other, None).unwrap();
        assert!(unnamed.verifier().name().starts_with("meshchain.local/"));
        assert_eq!(load_or_create(&other, None).unwrap().0.verifier(), unnamed.verifier());
    }
}
