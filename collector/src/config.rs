//! The collector's configuration: a TOML file, and flags that go before it.

use crate::quota::Limits;
use crate::secret::{hidden, looks_like_a_key};
use clap::{Parser, Subcommand};
use meshchain_anchor::AnchorConfig;
use meshchain_core::SigningKey;
use meshchain_log::SealAt;
use meshchain_store::Location;
use serde::{Deserialize, Deserializer};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Makes the digests of a mesh durable, and their Merkle roots public.
///
/// With --data alone it starts a log of its own: new key, no chain, on 127.0.0.1:8080.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "The configuration file is described in the README; unknown keys are refused.\n\nExit codes: 0 stopped, 1 failed, 2 bad configuration."
)]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where the collector's whole state is: DIR, file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE", global = true)]
    pub data: Option<Location>,
    /// File with the log's signing key; default `key` in the data directory, required with a bucket
    #[arg(long, value_name = "FILE", global = true)]
    pub key: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", global = true, value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Unique name of the log, the origin line of its checkpoints
    #[arg(long, value_name = "NAME", global = true)]
    pub origin: Option<String>,
    /// Delete records (never leaves or entries) after this long, e.g. 30d; default never
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    pub retain_records: Option<Duration>,
    /// Tell each step of the log on standard error
    #[arg(short, long)]
    pub verbose: bool,
    /// What to do instead of running
    #[command(subcommand)]
    pub command: Option<Command>,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it must be an address and a port, as 127.0.0.1:8080 or [::]:8080")
}

fn time(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "it must be a time, as 30d or 12h")
}

/// What the program does besides running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Found the log, with a new key unless there is one, and print the verification key
    Init,
}

/// The file. Every key is optional, but `data` must come from the file or the flag.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Unique name of the log (C2SP origin); it never changes. Default: made from the log's key.
    pub origin: Option<String>,
    /// Where the state is: a directory (`/DIR`, `file:///DIR`) or a bucket (`s3://BUCKET/PREFIX`,
    /// credentials from the usual `AWS_` environment).
    pub data: Option<Location>,
    /// The log's signing key, hexadecimal. Default `key` in the data directory; required with a
    /// bucket, where it is never kept.
    pub key: Option<PathBuf>,
    /// Records are deleted after this long ("30d"); leaves and entries never. Default: never.
    #[serde(deserialize_with = "duration")]
    pub retain_records: Option<Duration>,
    /// The operator is warned where fewer bytes are free where the log is. Default 1 GiB.
    pub warn_free_bytes: u64,
    /// Address to listen on. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// How batches come in.
    pub ingest: Ingest,
    /// What one principal may send.
    pub limits: Limits,
    /// Chains that tree heads are anchored on. Default none.
    pub anchor: Vec<AnchorConfig>,
}

/// Section `[ingest]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// Take the sender's SPIFFE id from the last element of `x-forwarded-client-cert`, and require
    /// one. Only where nothing but the collector's own sidecar can reach it. Default false.
    pub principal_from_xfcc: bool,
    /// Trust domain that senders must be of; with roots of several organisations in one bundle, mTLS
    /// alone lets them all in. Needs `principal_from_xfcc`. Default any.
    pub trust_domain: Option<String>,
    /// Bytes of batches that wait for a commit at most; past that, senders are told to come again.
    /// Default 64 MiB.
    pub max_waiting_bytes: u32,
}

/// Shortest time after which records may be deleted.
const LEAST_RETENTION: Duration = Duration::from_secs(10);

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

impl Default for Ingest {
    fn default() -> Self {
        Self { principal_from_xfcc: false, trust_domain: None, max_waiting_bytes: 64 << 20 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: None,
            data: None,
            key: None,
            retain_records: None,
            warn_free_bytes: 1 << 30,
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            ingest: Ingest::default(),
            limits: Limits::default(),
            anchor: Vec::new(),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("configuration {path}{line}: {fault}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, where it is known. Its text is not told: it may hold a secret.
        line: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A value that does not do.
    #[error("configuration{place}: {fault}")]
    Value {
        /// File and line, where the value stands in a file.
        place: String,
        /// The key, and what is wrong with its value.
        fault: String,
    },
}

impl ConfigError {
    /// What TOML says of a file, without the line that it would print.
    fn parse(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| format!(", line {}", before.matches('\n').count() + 1));
        // In the message a value that is of no use there may be quoted, with quotes of its own in it.
        let message = error.message();
        // What our own types say of a value tells what would do, and none of these is a secret.
        let ours = ["must be ", "data "].iter().any(|begin| message.starts_with(begin));
        let fault = match (message.find('"'), message.rfind('"')) {
            (Some(from), Some(to)) if from < to && !ours => {
                format!("{}\"...\"{}", &message[..from], &message[to + 1..])
            }
            _ => message.to_owned(),
        };
        let (path, line, fault) = (path.to_owned(), line.unwrap_or_default(), hidden(&fault));
        // Of a table where a list of tables must be.
        let hint = match fault.contains("invalid type: map, expected a sequence") {
            true => "; a chain is written [[anchor]], in two brackets",
            false => "",
        };
        Self::Parse { path, line, fault: fault + hint }
    }
}

/// A value that does not do: the table it is in (the chain, for an anchor), the key, the reason.
struct Fault {
    chain: Option<String>,
    key: &'static str,
    text: String,
}

impl Fault {
    fn new(key: &'static str, text: impl Into<String>) -> Self {
        Self { chain: None, key, text: text.into() }
    }

    /// Line of the value, from 1; the line of its table where the key stands in none.
    fn line(&self, file: &str) -> Option<usize> {
        let lines: Vec<&str> = file.lines().map(str::trim_start).collect();
        let is = |line: &str, key: &str| {
            line.split_once('=').is_some_and(|(name, _)| {
                name.trim() == key || name.trim().ends_with(&format!(".{key}"))
            })
        };
        let mut from = 0;
        if let Some(chain) = &self.chain {
            let named = lines.iter().position(|l| is(l, "chain") && l.contains(chain.as_str()))?;
            from = lines[..named].iter().rposition(|l| l.starts_with("[["))?;
        }
        let at = lines[from..].iter().position(|l| is(l, self.key)).map(|at| from + at);
        at.or((from > 0).then_some(from)).map(|at| at + 1)
    }
}

impl Config {
    /// The place of the state, and the file of the key.
    pub fn places(&self) -> (Location, PathBuf) {
        let data = self.data.clone().unwrap_or_else(|| Location::Directory(PathBuf::new()));
        let beside = || data.directory().map(|directory| directory.join("key"));
        let key = self.key.clone().or_else(beside).unwrap_or_default();
        (data, key)
    }

    /// When the tail is sealed: early enough that records do not outlive their time by more than a
    /// tenth.
    pub fn seal_at(&self) -> SealAt {
        let default = SealAt::default();
        let age = self.retain_records.map_or(default.age, |keep| default.age.min(keep / 10));
        SealAt { age, ..default }
    }

    /// Reads the file, if there is one, and lets the flags go before it.
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let file = args.config.as_deref().map(Self::read).transpose()?;
        let (mut config, text) = file.unwrap_or_default();
        config.data = args.data.clone().or(config.data);
        config.key = args.key.clone().or(config.key);
        config.retain_records = args.retain_records.or(config.retain_records);
        config.listen = args.listen.unwrap_or(config.listen);
        config.origin = args.origin.clone().or(config.origin);
        config.check().map_err(|fault| {
            let line = fault.line(&text);
            let file = args.config.iter().map(|path| path.display());
            let place =
                file.zip(line).map(|(path, line)| format!(" {path}, line {line}")).collect();
            ConfigError::Value { place, fault: hidden(&fault.text) }
        })?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<(Self, String), ConfigError> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config = toml::from_str(&text);
        let config = config.map_err(|e| ConfigError::parse(path, &text, &e))?;
        Ok((config, text))
    }

    fn check(&self) -> Result<(), Fault> {
        let bad = |key, text: String| Err(Fault::new(key, text));
        match &self.data {
            None => {
                let text = "data is missing: give --data PLACE, or the key in the file";
                return bad("data", text.into());
            }
            Some(Location::Bucket { .. }) if self.key.is_none() => {
                let text =
                    "key is missing: in a bucket the signing key is not kept, give --key FILE";
                return bad("data", text.into());
            }
            Some(_) => {}
        }
        if self.key.as_deref().is_some_and(looks_like_a_key) {
            return bad("key", "key looks like a key itself: it is the name of its file".into());
        }
        if let Some(name) = &self.origin
            && let Err(error) = SigningKey::from_seed(name, &[1; 32])
        {
            return bad("origin", format!("origin {name:?}: {error}"));
        }
        let limits = &self.limits;
        for (key, none) in [
            ("batches_per_second", limits.batches_per_second == 0),
            ("bytes_per_day", limits.bytes_per_day == 0),
            ("sessions_per_day", limits.sessions_per_day == 0),
        ] {
            if none {
                return bad(key, format!("limits.{key} is 0: nobody could send anything"));
            }
        }
        if self.retain_records.is_some_and(|keep| keep < LEAST_RETENTION) {
            return bad("retain_records", "retain_records is below 10s".into());
        }
        let least = 2 * crate::batch::MAX_BODY;
        if (self.ingest.max_waiting_bytes as usize) < least {
            let text = format!("ingest.max_waiting_bytes is below {least}, two batches");
            return bad("max_waiting_bytes", text);
        }
        if self.ingest.trust_domain.is_some() && !self.ingest.principal_from_xfcc {
            let text = "ingest.trust_domain needs ingest.principal_from_xfcc = true";
            return bad("trust_domain", text.into());
        }
        let (mut names, mut accounts) = (HashSet::new(), HashSet::new());
        for anchor in &self.anchor {
            let bad_anchor = |key, text: String| {
                Err(Fault { chain: Some(anchor.chain.clone()), ..Fault::new(key, text) })
            };
            if !names.insert(&anchor.chain) {
                return bad("chain", format!("anchor.chain {:?} is there twice", anchor.chain));
            }
            if looks_like_a_key(&anchor.key_file) {
                let text = "key_file looks like a key itself: it is the name of its file";
                return bad_anchor("key_file", text.into());
            }
            if !accounts.insert((anchor.chain_id, anchor.contract, &anchor.key_file)) {
                let text = "key_file is that of another anchor on the same chain and contract";
                return bad_anchor("key_file", text.into());
            }
            anchor.validate().or_else(|e| bad_anchor(e.key, e.to_string()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANCHORS: &str = "data = '/d'
[[anchor]]
chain = 'one'
rpc = 'http://a'
chain_id = 1
contract = '0x00000000000000000000000000000000000000aa'
key_file = '/k'
[[anchor]]
rpc = 'http://a'
chain_id = 1
key_file = '/k'
contract = '0x0000000000000000000000000000000000000000'
chain = 'two'
";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(&Args {
            config: Some(file.path().into()),
            data: None,
            key: None,
            listen: None,
            origin: None,
            retain_records: None,
            verbose: false,
            command: None,
        })
    }

    #[test]
    fn the_data_directory_is_all_that_is_needed() {
        let config = parse("data = '/d'").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(config.anchor.is_empty());
        assert!(parse("").unwrap_err().to_string().contains("data is missing"));
    }

    #[test]
    fn the_manifest_for_admins_holds_a_valid_configuration() {
        let manifest = include_str!("../../envoyfilter/collector.yaml");
        let (_, text) = manifest.split_once("collector.toml: |\n").unwrap();
        let (text, _) = text.split_once("\n---").unwrap();
        let text: Vec<_> = text.lines().map(|line| line.replacen("    #[[", "[[", 1)).collect();
        let mut anchor = false;
        let uncommented = text.iter().map(|line| {
            anchor |= line.starts_with("[[anchor]]");
            if anchor { line.trim_start().trim_start_matches('#') } else { line.as_str() }
        });
        let text = uncommented.collect::<Vec<_>>().join("\n");
        let unfinished = parse(&text).unwrap_err().to_string();
        assert!(unfinished.contains("zero address"), "an admin must replace it: {unfinished}");
        let config = parse(&text.replace("000000\"", "0000aa\"")).unwrap();
        assert!(config.ingest.principal_from_xfcc);
        assert_eq!(config.anchor.len(), 1);
    }

    #[test]
    fn an_error_never_prints_a_value_that_may_be_secret() {
        for (from, to) in [
            ("rpc = 'http://a'", "rpc = ['http://s3cret']"),
            ("rpc = 'http://a'", "rpc = 'http://s3cret' x"),
            ("rpc = 'http://a'", "rpc = 'http://s3cret"),
            ("chain_id = 1", "chain_id = 's3cret'"),
            ("key_file = '/k'", "key_file = { s3cret = 1 }"),
            ("chain_id = 1", "chain_id = 'a\"s3cret\"b'"),
            (
                "key_file = '/k'",
                "key_file = '0x5ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e7a1b2'",
            ),
            (
                "key_file = '/k'",
                "0x5ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e7a1b2 = '/k'",
            ),
            (
                "chain = 'one'",
                "chain = '0x5ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e75ec3e7a1b2'\nx = 1",
            ),
        ] {
            let text = ANCHORS.replacen(from, to, 1);
            assert_ne!(text, ANCHORS);
            let error = parse(&text).unwrap_err().to_string();
            assert!(!error.contains("s3cret") && !error.contains("5ec3e7"), "{to}: {error}");
            assert!(error.contains(", line "), "{to}: {error}");
        }
    }

    #[test]
    fn a_broken_file_is_refused_with_key_and_line() {
        let cases = [
            ("data = '/d'\nlisten = 5", "line 2"),
            ("data = '/d'\n[ingest]\nprincipal_from_xfc = true", "line 3"),
            ("data = '/d'\norigin = ", "line 2"),
            ("data = '/d'\nlistn = 'x'", "listn"),
            ("data = '/d'\ningest.max_waiting_bytes = 5", "line 2: ingest.max_waiting_bytes"),
            ("data = '/d'\n[ingest]\n\nmax_waiting_bytes = 5", "line 4: ingest.max_waiting_bytes"),
            ("data = 'gs://b'", "line 1: data \"gs://b\" is neither"),
            ("data = '/d'\n[limits]\nbytes_per_day = 0", "limits.bytes_per_day is 0"),
            ("\ndata = 's3://b/p'", "line 2: key is missing"),
            ("data = '/d'\nretain_records = '5s'", "line 2: retain_records"),
            ("data = '/d'\nretain_records = 'long'", "line 2"),
            ("data = '/d'\n[ingest]\ntrust_domain = 'x'", "line 3: ingest.trust_domain"),
            ("data = '/d'\norigin = 'a b'", "line 2: origin \"a b\""),
            ("data = '/d'\n[anchor]\nchain = 'a'", "[[anchor]], in two brackets"),
            (ANCHORS, "line 12: anchor \"two\": contract"),
            (&ANCHORS.replace("0000'", "00aa'"), "line 11: key_file is that of another anchor"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
