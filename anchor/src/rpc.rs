//! JSON-RPC over HTTP, for answers that may be hostile: bounded in size and time, never trusted in
//! shape. Errors never hold the node's address, which may be a secret.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use thiserror::Error;
use ureq::Agent;

/// Largest answer, in bytes: the receipts of a full 60 M gas block have about 5 MB as JSON.
const MAX_BODY: u64 = 16 * 1024 * 1024;
/// Longest time for a whole call. Receipts of a full block take a node some seconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest part of a node's own words that is repeated in logs, in characters.
const MAX_QUOTE: usize = 200;

/// Why a call has no result. Whether it had an effect on the node is unknown unless the node says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum RpcError {
    /// No whole answer came.
    #[error("the node does not answer: {0}")]
    Unreachable(String),
    /// An answer that is not JSON-RPC.
    #[error("the node answered with http status {0}")]
    Http(u16),
    /// Not an answer to this call, or a result of another type.
    #[error("the node's answer to {method} is malformed: {reason}")]
    Malformed { method: &'static str, reason: String },
    /// The node refused.
    #[error("{method} failed: {message} ({code})")]
    Refused { method: &'static str, code: i64, message: String },
}

/// What a node means when it refuses a transaction, judged by its words: geth answers nearly
/// everything with -32000, anvil with -32003, others differ again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has this very transaction.
    AlreadyKnown,
    /// The nonce was used in a block.
    NonceTooLow,
    /// A transaction with this nonce is in the pool and offers too much to be replaced.
    Underpriced,
    /// The account cannot pay for it.
    InsufficientFunds,
    /// It offers less than the pool or the next block asks for.
    FeeTooLow,
    /// The call it makes would revert.
    Reverts,
    /// Anything else.
    Other,
}

/// Words of geth, anvil, Besu, Erigon, Nethermind and Reth. The first match counts.
const WORDS: &[(&str, Refusal)] = &[
    ("already known", Refusal::AlreadyKnown),
    ("already imported", Refusal::AlreadyKnown),
    ("alreadyknown", Refusal::AlreadyKnown),
    ("known transaction", Refusal::AlreadyKnown),
    ("nonce too low", Refusal::NonceTooLow),
    ("nonce below", Refusal::NonceTooLow),
    ("oldnonce", Refusal::NonceTooLow),
    ("replacement", Refusal::Underpriced),
    ("insufficient funds", Refusal::InsufficientFunds),
    ("insufficient balance", Refusal::InsufficientFunds),
    ("insufficientfunds", Refusal::InsufficientFunds),
    ("upfront cost exceeds", Refusal::InsufficientFunds),
    ("base fee", Refusal::FeeTooLow),
    ("basefee", Refusal::FeeTooLow),
    ("underpriced", Refusal::FeeTooLow),
    ("fee too low", Refusal::FeeTooLow),
    ("feetoolow", Refusal::FeeTooLow),
    ("gas price below", Refusal::FeeTooLow),
    ("gas price too low", Refusal::FeeTooLow),
    ("revert", Refusal::Reverts),
];

impl RpcError {
    /// The node's reason; `None` where it gave none, and nothing is known.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let Self::Refused { message, .. } = self else { return None };
        let message = message.to_ascii_lowercase();
        let known = WORDS.iter().find(|(words, _)| message.contains(words));
        Some(known.map_or(Refusal::Other, |(_, refusal)| *refusal))
    }

    pub(crate) fn malformed(method: &'static str, reason: impl ToString) -> Self {
        Self::Malformed { method, reason: quote(&reason.to_string()) }
    }
}

/// Calls one node.
#[derive(Clone)]
pub(crate) struct Rpc {
    agent: Agent,
    url: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    error: Option<AnswerError>,
    #[serde(default)]
    result: Value,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Value,
}

impl Rpc {
    pub(crate) fn new(url: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(TIMEOUT))
            .build();
        Self { agent: config.into(), url: url.to_owned() }
    }

    /// Calls `method` from a thread that may block.
    pub(crate) async fn call<T: DeserializeOwned + Send + 'static>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, RpcError> {
        let rpc = self.clone();
        let call = tokio::task::spawn_blocking(move || rpc.call_blocking(method, &params));
        call.await.unwrap_or_else(|e| Err(RpcError::Unreachable(e.to_string())))
    }

    fn call_blocking<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
    ) -> Result<T, RpcError> {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let unreachable = |e: ureq::Error| RpcError::Unreachable(transport(&e));
        let answer = self.agent.post(&self.url).send_json(call).map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().into_with_config().limit(MAX_BODY).read_to_vec();
        let body = match body {
            Err(ureq::Error::BodyExceedsLimit(_)) => {
                return Err(RpcError::malformed(method, format!("over {MAX_BODY} bytes")));
            }
            other => other.map_err(unreachable)?,
        };
        let ok = (200..300).contains(&status);
        match parse(method, &body) {
            Err(RpcError::Malformed { .. }) if !ok => Err(RpcError::Http(status)),
            // 429 and the like come with an error object from some providers: not a verdict.
            Err(RpcError::Refused { .. }) if status == 429 || status >= 500 => {
                Err(RpcError::Http(status))
            }
            Ok(_) if !ok => Err(RpcError::Http(status)),
            other => other,
        }
    }
}

fn parse<T: DeserializeOwned>(method: &'static str, body: &[u8]) -> Result<T, RpcError> {
    let malformed = |reason: &dyn ToString| RpcError::malformed(method, reason.to_string());
    let answer: Answer = serde_json::from_slice(body).map_err(|e| malformed(&e))?;
    if let Some(AnswerError { code, message }) = answer.error {
        let message = quote(message.as_str().unwrap_or("no message"));
        return Err(RpcError::Refused { method, code: code.as_i64().unwrap_or(0), message });
    }
    if answer.id != json!(1) {
        return Err(malformed(&"it is for another call"));
    }
    serde_json::from_value(answer.result).map_err(|e| malformed(&e))
}

/// What went wrong below HTTP, without the address.
fn transport(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(e) => e.kind().to_string(),
        ureq::Error::Timeout(_) => "timeout".to_owned(),
        ureq::Error::HostNotFound => "host not found".to_owned(),
        ureq::Error::ConnectionFailed => "connection failed".to_owned(),
        ureq::Error::Tls(reason) => format!("tls: {reason}"),
        ureq::Error::Rustls(e) => quote(&format!("tls: {e}")),
        ureq::Error::BadUri(_) => "bad address".to_owned(),
        other => quote(&other.to_string()),
    }
}

/// A node's words, fit for one line of a log: printable ASCII, and nothing that could pass for another line.
fn quote(text: &str) -> String {
    let printable = |c: char| match c {
        ' '..='~' => c,
        c if c.is_control() => ' ',
        _ => '?',
    };
    text.chars().map(printable).take(MAX_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(message: &str) -> Option<Refusal> {
        RpcError::Refused { method: "m", code: -32000, message: message.into() }.refusal()
    }

    #[test]
    fn refusals_are_told_by_their_words() {
        for (message, expected) in [
            ("already known", Refusal::AlreadyKnown),
            ("transaction already imported", Refusal::AlreadyKnown),
            ("Known transaction", Refusal::AlreadyKnown),
            ("nonce too low: next nonce 5, tx nonce 4", Refusal::NonceTooLow),
            ("Nonce too low", Refusal::NonceTooLow),
            ("replacement transaction underpriced", Refusal::Underpriced),
            ("Replacement transaction underpriced", Refusal::Underpriced),
            ("transaction underpriced: tip needed 1", Refusal::FeeTooLow),
            ("insufficient funds for gas * price + value", Refusal::InsufficientFunds),
            ("Insufficient funds for gas * price + value", Refusal::InsufficientFunds),
            ("Upfront cost exceeds account balance", Refusal::InsufficientFunds),
            ("max fee per gas less than block base fee", Refusal::FeeTooLow),
            ("fee cap less than block base fee", Refusal::FeeTooLow),
            ("Gas price below configured minimum gas price", Refusal::FeeTooLow),
            ("execution reverted", Refusal::Reverts),
            ("whatever", Refusal::Other),
        ] {
            assert_eq!(refusal(message), Some(expected), "{message}");
        }
        assert_eq!(RpcError::Http(429).refusal(), None);
    }

    #[test]
    fn answers_are_errors_until_parsed() {
        let call = |body: &str| parse::<String>("m", body.as_bytes());
        assert_eq!(call(r#"{"id":1,"result":"x"}"#).unwrap(), "x");
        for garbage in [
            "",
            "null",
            "[]",
            "{}",
            "<html>",
            r#"{"id":2,"result":"x"}"#,
            r#"{"id":1,"result":5}"#,
            r#"{"id":1}"#,
            r#"{"id":1,"error":7,"result":"x"}"#,
        ] {
            assert!(matches!(call(garbage), Err(RpcError::Malformed { .. })), "{garbage}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(call(&deep), Err(RpcError::Malformed { .. })));
        let odd = call(r#"{"id":1,"error":{"code":"x","message":["y"]}}"#).unwrap_err();
        assert!(matches!(odd, RpcError::Refused { code: 0, .. }));
        let long = format!(r#"{{"error":{{"code":1,"message":"a\n{}"}}}}"#, "b".repeat(9999));
        let RpcError::Refused { message, .. } = call(&long).unwrap_err() else { panic!() };
        assert!(message.len() == MAX_QUOTE && message.starts_with("a b"));
    }
}
