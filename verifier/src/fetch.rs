//! Gets an evidence file from a collector. The collector is not believed: what it sends is only
//! checked to be evidence of the trace asked for.

use meshchain_core::TraceId;
use meshchain_core::evidence::{Evidence, EvidenceError, MAX_LEN};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// Time for the whole answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no evidence.
#[derive(Debug, Error)]
pub enum FetchError {
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
}

/// Fetches the evidence of a trace: GET `{collector}/v1/evidence/{trace id}`. Returns its bytes, as
/// sent, and its content.
pub fn fetch_evidence(collector: &str, trace_id: &str) -> Result<(Vec<u8>, Evidence), FetchError> {
    let id = TraceId::from_hex(trace_id.as_bytes()).ok_or(FetchError::TraceId)?;
    let url = format!("{}/v1/evidence/{}", collector.trim_end_matches('/'), hex::encode(id.0));
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build();
    let mut response = ureq::Agent::from(config).get(&url).call().map_err(Box::new)?;
    let status = response.status().as_u16();
    if status == 404 {
        return Err(FetchError::NotFound);
    }
    let body = response.body_mut().with_config().limit(MAX_LEN as u64 + 1);
    let body = body.read_to_vec().map_err(Box::new)?;
    if status != 200 {
        return Err(FetchError::Status { status, reason: reason(&body) });
    }
    let evidence = Evidence::from_json(&body)?;
    if evidence.trace_id != id.0 {
        return Err(FetchError::OtherTrace(hex::encode(evidence.trace_id)));
    }
    Ok((body, evidence))
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
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
