//! Where a log is read from: a collector's data directory, or the paths of C2SP tlog-tiles over
//! HTTP. Neither is believed.

use meshchain_core::entries_page::{MAX_PAGE, split_page};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Time for one answer over HTTP. The largest object, a full bundle of the longest leaves, has
/// 16 MiB.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often an object is asked for, where the server does not answer or answers 429 or 5xx.
const ATTEMPTS: u32 = 3;
/// Pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// Why an object could not be read. That it is not there is no error.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The disk or the server failed.
    #[error("{name}: {reason}")]
    Unreadable {
        /// Object.
        name: String,
        /// Cause.
        reason: String,
    },
    /// Longer than any such object can be.
    #[error("{name}: over {limit} bytes")]
    TooLarge {
        /// Object.
        name: String,
        /// Most bytes that it can have.
        limit: u64,
    },
}

impl SourceError {
    pub(crate) fn unreadable(name: &str, reason: impl ToString) -> Self {
        Self::Unreadable { name: name.to_owned(), reason: reason.to_string() }
    }
}

/// A file or folder in a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Name below the log, with slashes.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
}

/// The objects of a log by name: "checkpoint", "tile/0/000".
pub trait LogSource {
    /// Reads an object of at most `limit` bytes; `None` where there is none.
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, SourceError>;

    /// What lies directly in a folder, by name; `None` where the source cannot list. The name of
    /// the whole log is empty.
    fn list(&self, folder: &str) -> Result<Option<Vec<Item>>, SourceError>;

    /// The entries of consecutive leaves from this one on, as many as the source gives at once; `None` where it gives
    /// none.
    fn entries(&self, from: u64) -> Result<Option<Vec<Vec<u8>>>, SourceError> {
        let _ = from;
        Ok(None)
    }

    /// An object as a file to read parts of; `None` where there is none, or no files.
    fn file(&self, name: &str) -> Result<Option<File>, SourceError> {
        let _ = name;
        Ok(None)
    }

    /// The source as its user named it.
    fn name(&self) -> String;
}

/// A data directory. Read only; its lock is not taken, so a collector may be running on it.
#[derive(Debug, Clone)]
pub struct Directory(pub PathBuf);

impl LogSource for Directory {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|e| SourceError::unreadable(name, e))?;
        if bytes.len() as u64 > limit {
            return Err(SourceError::TooLarge { name: name.to_owned(), limit });
        }
        Ok(Some(bytes))
    }

    fn entries(&self, from: u64) -> Result<Option<Vec<Vec<u8>>>, SourceError> {
        let name = entries_path(from);
        self.get(&name, MAX_PAGE as u64)?.map(|page| split(&name, &page)).transpose()
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<Item>>, SourceError> {
        let err = |e: std::io::Error| SourceError::unreadable(folder, e);
        let read = match std::fs::read_dir(self.0.join(folder)) {
            Ok(read) => read,
            Err(e) if absent(&e) => return Ok(Some(Vec::new())),
            Err(e) => return Err(err(e)),
        };
        let mut items = Vec::new();
        for entry in read {
            let entry = entry.map_err(err)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            items.push(Item { name, folder: entry.file_type().map_err(err)?.is_dir() });
        }
        items.sort_unstable();
        Ok(Some(items))
    }

    fn file(&self, name: &str) -> Result<Option<File>, SourceError> {
        let path = self.0.join(name);
        let err = |e: std::io::Error| SourceError::unreadable(name, e);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_file() => {}
            // A pipe would block, and a folder is not an object.
            Ok(_) => return Err(SourceError::unreadable(name, "not a file")),
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(err(e)),
        }
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if absent(&e) => Ok(None),
            Err(e) => Err(err(e)),
        }
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

/// Where a page of entries is kept in a copy.
pub(crate) fn entries_path(from: u64) -> String {
    format!("entries/{from:020}")
}

fn split(name: &str, page: &[u8]) -> Result<Vec<Vec<u8>>, SourceError> {
    let leaves = split_page(page).map_err(|e| SourceError::unreadable(name, e))?;
    Ok(leaves.into_iter().map(<[u8]>::to_vec).collect())
}

fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// A log served at a URL, read with GET.
pub struct HttpLog {
    agent: ureq::Agent,
    url: String,
}

impl HttpLog {
    /// A log whose checkpoint is at `{url}/checkpoint`. Nothing is sent yet.
    pub fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            // Whom to ask is the user's word, not the log's.
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Self { agent: config.into(), url: url.trim_end_matches('/').to_owned() }
    }

    /// One attempt; the inner error may pass by itself.
    fn once(&self, name: &str, limit: u64) -> Result<Result<Option<Vec<u8>>, String>, SourceError> {
        let mut response = match self.agent.get(format!("{}/{name}", self.url)).call() {
            Ok(response) => response,
            Err(e) => return Ok(Err(e.to_string())),
        };
        match response.status().as_u16() {
            200 => {}
            404 | 410 => return Ok(Ok(None)),
            status @ (429 | 500..) => return Ok(Err(format!("HTTP {status}"))),
            status => return Err(SourceError::unreadable(name, format!("HTTP {status}"))),
        }
        let body = response.body_mut().with_config().limit(limit.saturating_add(1));
        match body.read_to_vec() {
            Ok(bytes) if bytes.len() as u64 <= limit => Ok(Ok(Some(bytes))),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => {
                Err(SourceError::TooLarge { name: name.to_owned(), limit })
            }
            Err(e) => Ok(Err(e.to_string())),
        }
    }
}

impl LogSource for HttpLog {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let mut attempt = 1;
        loop {
            match self.once(name, limit)? {
                Ok(found) => return Ok(found),
                Err(reason) if attempt == ATTEMPTS => {
                    return Err(SourceError::unreadable(name, reason));
                }
                Err(_) => std::thread::sleep(PAUSE * 2u32.pow(attempt - 1)),
            }
            attempt += 1;
        }
    }

    fn entries(&self, from: u64) -> Result<Option<Vec<Vec<u8>>>, SourceError> {
        let name = format!("v1/entries?from={from}");
        self.get(&name, MAX_PAGE as u64)?.map(|page| split(&name, &page)).transpose()
    }

    fn list(&self, _folder: &str) -> Result<Option<Vec<Item>>, SourceError> {
        Ok(None)
    }

    fn name(&self) -> String {
        self.url.clone()
    }
}
