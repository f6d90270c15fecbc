//! Where the state is: a directory, or a bucket that speaks S3.

use crate::reserve::LOCK;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use rustix::fs::OFlags;
use serde::Deserialize;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// A failing bucket is tried again for so long, however quickly it fails; then the batch is refused, or the collector ends.
const RETRY: Duration = Duration::from_secs(15);
/// First and longest pause between two tries.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// Time that one request to a bucket may take.
const REQUEST_TIMEOUT: &str = "10 seconds";

/// Why the store could not be opened.
#[derive(Debug, Error)]
pub enum AccessError {
    /// Another collector holds the directory.
    #[error("{0} is in use by another collector: one log has one writer")]
    Locked(String),
    /// The directory cannot be made or read.
    #[error("cannot open data directory {path}: {source}")]
    Io {
        /// Directory as configured.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// The settings of the bucket do not do.
    #[error(
        "cannot open {url}: {source}; credentials, AWS_REGION and AWS_ENDPOINT_URL come from the environment"
    )]
    Bucket {
        /// Bucket as configured.
        url: String,
        /// Cause.
        source: object_store::Error,
    },
}

/// A place that cannot hold the state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("data {0:?} is neither a directory, nor file:///DIRECTORY, nor s3://BUCKET/PREFIX")]
pub struct LocationError(String);

/// Where the state is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Location {
    /// A directory of this machine: `/DIRECTORY`, `DIRECTORY` or `file:///DIRECTORY`.
    Directory(PathBuf),
    /// Objects of a bucket, below a prefix: `s3://BUCKET/PREFIX`.
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// Prefix of all names, without slashes at its ends; may be empty.
        prefix: String,
    },
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let bad = || LocationError(text.to_owned());
        match text.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Directory(path.into())),
            Some(("s3", place)) => {
                let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
                let prefix = prefix.trim_matches('/').to_owned();
                if bucket.is_empty() {
                    Err(bad())
                } else {
                    Ok(Self::Bucket { bucket: bucket.into(), prefix })
                }
            }
            // A scheme with a slash that is missing, or a shell's word, is no directory of this name.
            None if text.starts_with('~') => Err(bad()),
            None if ["s3:", "file:"].iter().any(|scheme| text.starts_with(scheme)) => Err(bad()),
            None if !text.is_empty() => Ok(Self::Directory(text.into())),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = LocationError;

    fn try_from(text: String) -> Result<Self, LocationError> {
        text.parse()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl Location {
    /// The directory; `None` for a bucket.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Bucket { .. } => None,
        }
    }

    /// The objects, and the lock on them where there is one.
    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Option<File>), AccessError> {
        match self {
            Self::Directory(path) => open_directory(path).map(|(o, lock)| (o, Some(lock))),
            Self::Bucket { bucket, prefix } => {
                let bucket = open_bucket(bucket)
                    .map_err(|source| AccessError::Bucket { url: self.to_string(), source })?;
                Ok((Arc::new(PrefixStore::new(bucket, prefix.as_str())), None))
            }
        }
    }
}

fn open_directory(directory: &Path) -> Result<(Arc<dyn ObjectStore>, File), AccessError> {
    let path = directory.display().to_string();
    let io = |source| AccessError::Io { path: path.clone(), source };
    // Else the system says of a file, or of a link that leads nowhere, that it exists.
    if directory.symlink_metadata().is_ok() && !directory.is_dir() {
        return Err(io(io::ErrorKind::NotADirectory.into()));
    }
    std::fs::create_dir_all(directory).map_err(io)?;
    // To open a pipe may take for ever.
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        if entry.file_type().map_err(io)?.is_fifo() {
            let name = entry.file_name();
            return Err(io(io::Error::other(format!("{} is a pipe", name.display()))));
        }
    }
    let lock = open_lock(&directory.join(LOCK)).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(AccessError::Locked(path)),
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    for folder in ["pool", "segment", "sessions"] {
        remove_staged(&directory.join(folder)).map_err(io)?;
    }
    let objects = LocalFileSystem::new_with_prefix(directory)
        .map_err(|e| io(io::Error::other(e)))?
        .with_fsync(true);
    Ok((Arc::new(objects), lock))
}

/// The file that is locked, made where there is none: no link is followed, no pipe is waited for, nothing is cut.
fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(flags.bits() as i32);
    let lock = options.open(path)?;
    match lock.metadata()?.is_file() {
        true => Ok(lock),
        false => Err(io::Error::other("lock is not a file")),
    }
}

/// Removes what a killed collector left half-written: files named after an object and `#1`, which
/// are no objects. Big ones lie in these folders only.
fn remove_staged(folder: &Path) -> io::Result<()> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for file in files {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains('#')) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn open_bucket(bucket: &str) -> Result<impl ObjectStore, object_store::Error> {
    // Fails only where one is installed already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let [init_backoff, max_backoff] = PAUSES;
    let backoff = BackoffConfig { init_backoff, max_backoff, ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: RETRY };
    AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIMEOUT)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_a_link_or_a_pipe_is_refused_and_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, other) = (folder.path().join(LOCK), folder.path().join("other"));
        std::fs::write(&other, "precious").unwrap();
        std::os::unix::fs::symlink(&other, &lock).unwrap();
        assert!(open_directory(folder.path()).is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"precious");
        std::fs::remove_file(&lock).unwrap();
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &lock, pipe, 0o600.into(), 0).unwrap();
        assert!(open_directory(folder.path()).is_err());
        std::fs::remove_file(&lock).unwrap();
        assert!(open_directory(folder.path()).is_ok());
    }

    #[test]
    fn a_place_is_a_directory_or_a_bucket() {
        let directory = |path: &str| Ok(Location::Directory(path.into()));
        let bucket = |bucket: &str, prefix: &str| {
            Ok(Location::Bucket { bucket: bucket.into(), prefix: prefix.into() })
        };
        let bad = |text: &str| Err(LocationError(text.into()));
        let cases = [
            ("/var/lib/x", directory("/var/lib/x")),
            ("data", directory("data")),
            ("file:///var/lib/x", directory("/var/lib/x")),
            ("s3://b/p/q/", bucket("b", "p/q")),
            ("s3://b", bucket("b", "")),
            ("s3://", bad("s3://")),
            ("file://host/x", bad("file://host/x")),
            ("gs://b/p", bad("gs://b/p")),
            ("", bad("")),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Location>(), expected, "{text}");
        }
    }
}
