//! `--rpc`: which node is asked about which chain.

use crate::chain::{BlockAnswer, BlockQuery, ChainView};
use crate::rpc::RpcChain;
use std::str::FromStr;
use thiserror::Error;

/// An argument of `--rpc`: `URL`, or `CHAIN=URL` for one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUrl {
    /// EIP-155 chain id; `None`: whichever chain the node is of.
    pub chain_id: Option<u64>,
    /// http or https.
    pub url: String,
}

/// A text that is no [`NodeUrl`]. The text is left out: a URL may hold an access key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("give CHAIN=URL: the chain id in decimal, and a URL with http:// or https://")]
pub struct NotNodeUrl;

impl FromStr for NodeUrl {
    type Err = NotNodeUrl;

    fn from_str(text: &str) -> Result<Self, NotNodeUrl> {
        let (chain_id, url) = match text.split_once('=') {
            Some((id, url)) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) => {
                (Some(id.parse().map_err(|_| NotNodeUrl)?), url)
            }
            _ => (None, text),
        };
        let web = url.starts_with("http://") || url.starts_with("https://");
        if web { Ok(Self { chain_id, url: url.to_owned() }) } else { Err(NotNodeUrl) }
    }
}

/// The nodes that were given, each asked about its chain.
pub struct Nodes(Vec<(Option<u64>, RpcChain)>);

impl Nodes {
    /// Nothing is sent yet.
    pub fn new(urls: &[NodeUrl]) -> Self {
        Self(urls.iter().map(|node| (node.chain_id, RpcChain::new(&node.url))).collect())
    }
}

impl ChainView for Nodes {
    /// Asks the node of the query's chain, else one that was given without a chain.
    fn block(&self, query: &BlockQuery) -> BlockAnswer {
        let of = |chain_id| self.0.iter().find(|(id, _)| *id == chain_id);
        match of(Some(query.chain_id)).or_else(|| of(None)) {
            Some((_, node)) => node.block(query),
            None => BlockAnswer::Unknown(format!("no --rpc is of chain {}", query.chain_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_may_stand_before_the_url() {
        let parsed = |text: &str| text.parse::<NodeUrl>().map(|node| (node.chain_id, node.url));
        for (text, expected) in [
            ("http://x", Ok((None, "http://x".into()))),
            ("1=https://x/?a=b", Ok((Some(1), "https://x/?a=b".into()))),
            ("https://x/?1=b", Ok((None, "https://x/?1=b".into()))),
            ("x", Err(NotNodeUrl)),
            ("1=x", Err(NotNodeUrl)),
            ("=http://x", Err(NotNodeUrl)),
            ("+1=http://x", Err(NotNodeUrl)),
            ("18446744073709551616=http://x", Err(NotNodeUrl)),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }
}
