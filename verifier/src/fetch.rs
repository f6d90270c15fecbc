//! Gets an evidence file from a collector. The collector is not believed: what it sends is only
//! checked to be evidence of the trace asked for.

use crate::shown::quoted;
use meshchain_core::TraceId;
use meshchain_core::evidence::{Evidence, EvidenceError, MAX_LEN};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Time for the whole answer; a page of some megabytes takes a minute where the collector gives it more time than others.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Times that a collector is asked again that says it is busy, and the longest pause before each.
const TIMES: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why there is no evidence.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The collector's address is none.
    #[error("{0} is no URL of a collector: that begins with http:// or https://")]
    NoUrl(String),
    /// Not a trace id.
    #[error("a trace id has 16 or 32 hex digits, not all zero")]
    TraceId,
    /// No answer.
    #[error("the collector did not answer: {0}")]
    Transport(#[from] Box<ureq::Error>),
    /// 404.
    #[error("no record of this trace")]
    NotFound,
    /// Any other status; the collector's own words.
    #[error("the collector answers HTTP {status}: {reason}")]
    Status {
        /// HTTP status.
        status: u16,
        /// `error` of its JSON body, where there is one.
        reason: String,
    },
    /// Not evidence.
    #[error("the collector sent something else: {0}")]
    Evidence(#[from] EvidenceError),
    /// Evidence of another trace.
    #[error("the collector sent evidence of trace {0}")]
    OtherTrace(String),
    /// Pages that don't go on.
    #[error("the collector's next page begins before this one")]
    Circle,
}

/// One page of the evidence of a trace: a file of its own.
#[derive(Debug)]
pub struct EvidencePage {
    /// As sent.
    pub bytes: Vec<u8>,
    /// What it says.
    pub evidence: Evidence,
    /// Place behind which the next page begins, if there is one.
    pub next: Option<PagePlace>,
}

/// Place of an entry in a log, where a page ends: leaf, and index of the entry in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PagePlace(u64, u32);

impl FromStr for PagePlace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text
            .split_once('.')
            .and_then(|(leaf, index)| Some(Self(leaf.parse().ok()?, index.parse().ok()?)));
        place.ok_or("a place is LEAF.INDEX, two numbers")
    }
}

impl fmt::Display for PagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Fetches a page of the evidence of a trace, oldest spans first, from the first one behind `after`: GET
/// `{collector}/v1/evidence/{trace id}`.
pub fn fetch_evidence(
    collector: &str,
    trace_id: &str,
    after: Option<PagePlace>,
) -> Result<EvidencePage, FetchError> {
    let id = TraceId::from_hex(trace_id.as_bytes()).ok_or(FetchError::TraceId)?;
    if !collector.starts_with("http://") && !collector.starts_with("https://") {
        return Err(FetchError::NoUrl(quoted(collector)));
    }
    let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
    let collector = collector.trim_end_matches('/');
    let url = format!("{collector}/v1/evidence/{}{query}", hex::encode(id.0));
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        // Whom to ask is the user's word, not the collector's.
        .max_redirects(0)
        .http_status_as_error(false)
        .build();
    let agent = ureq::Agent::from(config);
    let mut response = agent.get(&url).call().map_err(Box::new)?;
    for _ in 0..TIMES {
        let Some(pause) = comes_again(&response) else { break };
        std::thread::sleep(pause);
        response = agent.get(&url).call().map_err(Box::new)?;
    }
    let status = response.status().as_u16();
    if status == 404 {
        return Err(FetchError::NotFound);
    }
    let link = response.headers().get("link").and_then(|link| link.to_str().ok());
    let next = link.and_then(next_place);
    let body = response.body_mut().with_config().limit(MAX_LEN as u64 + 1);
    let bytes = body.read_to_vec().map_err(Box::new)?;
    if status != 200 {
        return Err(FetchError::Status { status, reason: reason(&bytes) });
    }
    let evidence = Evidence::from_json(&bytes)?;
    if evidence.trace_id != id.0 {
        return Err(FetchError::OtherTrace(hex::encode(evidence.trace_id)));
    }
    if next.is_some_and(|next| after.is_some_and(|after| next <= after)) {
        return Err(FetchError::Circle);
    }
    Ok(EvidencePage { bytes, evidence, next })
}

/// After what time a busy collector wants to be asked again.
fn comes_again(response: &ureq::http::Response<ureq::Body>) -> Option<Duration> {
    let busy = [429, 503].contains(&response.status().as_u16());
    let after = response.headers().get("retry-after").filter(|_| busy)?;
    let seconds = after.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// The place that a `Link` to the next page names. Its address is not followed: the collector's is known.
fn next_place(link: &str) -> Option<PagePlace> {
    let (target, relation) = link.strip_prefix('<')?.split_once('>')?;
    let query = target.split_once('?')?.1;
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after="))?;
    if relation.contains("rel=\"next\"") { after.parse().ok() } else { None }
}

/// `error` of a JSON body.
fn reason(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = json.as_ref().and_then(|json| json["error"].as_str());
    text.unwrap_or("no reason given").to_owned()
}

/// Writes a file so that it is there whole or not at all, readable by its owner only.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
    // Its own error names a file that nobody asked for.
    let mut file = made.map_err(|error| std::io::Error::from(error.kind()))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_says() {
        for (link, expected) in [
            ("</v1/evidence/ab?after=12.3&limit=9>; rel=\"next\"", Some(PagePlace(12, 3))),
            ("<https://evil/x?limit=9&after=0.0>; rel=\"next\"", Some(PagePlace(0, 0))),
            ("</v1/evidence/ab?after=12.3>; rel=\"prev\"", None),
            ("</v1/evidence/ab?after=12>; rel=\"next\"", None),
            ("</v1/evidence/ab?after=12.99999999999>; rel=\"next\"", None),
            ("</v1/evidence/ab>; rel=\"next\"", None),
            ("", None),
        ] {
            assert_eq!(next_place(link), expected, "{link}");
        }
    }
}
