//! What the other side may have seen instead: hop parts to be tried against its digest.

use super::side::HopSide;
use super::verdict::Difference;
use crate::shown::shown;
use meshchain_core::HopPart;
use meshchain_core::target::canonical_path;

/// Statuses that are tried.
pub(super) const STATUSES: std::ops::RangeInclusive<u32> = 0..=599;
/// What Envoy appends to the host of a copy that it sends to a shadow.
pub(super) const SHADOW: &[u8] = b"-shadow";

const METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT", b"TRACE"];

/// Texts that a candidate may have in place of the side's own.
pub(super) struct Texts {
    /// Field and text.
    list: Vec<(&'static str, Vec<u8>)>,
}

impl Texts {
    /// Of a side whose hop part is shown.
    pub(super) fn of(side: &HopSide<'_>) -> Self {
        let mut list = vec![("request_id", Vec::new())];
        list.extend(METHODS.map(|method| ("method", method.to_vec())));
        list.extend(other_resolutions(side).into_iter().map(|path| ("path", path)));
        list.extend(cluster_hosts(side).into_iter().map(|host| ("authority", host)));
        Self { list }
    }

    /// The part itself, then with each of the texts that differ. Where texts were cut nothing but the
    /// status can be tried.
    pub(super) fn candidates<'a>(
        &'a self,
        hop: &HopPart<'a>,
    ) -> impl Iterator<Item = (Option<&'static str>, HopPart<'a>)> {
        let hop = *hop;
        let texts = self.list.iter().filter(move |_| hop.overflow.is_none());
        let other = texts.map(move |(field, text)| {
            let mut other = hop;
            let slot = match *field {
                "request_id" => &mut other.request_id,
                "method" => &mut other.method,
                "authority" => &mut other.authority,
                _ => &mut other.path,
            };
            *slot = text;
            (Some(*field), other)
        });
        std::iter::once((None, hop)).chain(other)
    }
}

/// The fields in which two hop parts differ, from the client's to the server's.
pub(super) fn differences(client: &HopPart<'_>, server: &HopPart<'_>) -> Vec<Difference> {
    let texts = [
        ("method", client.method, server.method),
        ("authority", client.authority, server.authority),
        ("path", client.path, server.path),
        ("request_id", client.request_id, server.request_id),
    ];
    let differing = texts.into_iter().filter(|(_, client, server)| client != server);
    let mut all: Vec<_> = differing
        .map(|(field, client, server)| Difference::new(field, shown(client), shown(server)))
        .collect();
    if client.status != server.status {
        let (client, server) = (client.status.to_string(), server.status.to_string());
        all.push(Difference::new("status", client, server));
    }
    if all.is_empty() && client.overflow != server.overflow {
        let beyond = "text beyond 1024 bytes";
        all.push(Difference::new("overflow", beyond, format!("another {beyond}")));
    }
    all
}

/// Other canonical paths of what a side saw, as listeners make them that resolve `..` before they
/// unescape or after they merge slashes. Empty where all come to the same.
pub(super) fn other_resolutions(side: &HopSide<'_>) -> Vec<Vec<u8>> {
    let Some(hop) = &side.hop else { return vec![] };
    let raw = side.own.as_ref().map(|own| own.raw_path).filter(|raw| !raw.is_empty());
    let raw = raw.unwrap_or(hop.path);
    let canonical = |path: &[u8]| canonical_path(path, &mut Vec::new()).to_vec();
    let merged = merged(raw);
    let mut all = vec![canonical(&merged)];
    for path in [raw, &merged] {
        if let Some(hidden) = replaced(path, &[b"%2f", b"%2F", b"%5c", b"%5C"], HIDDEN) {
            let resolved = canonical(&hidden);
            all.extend(replaced(&resolved, &[HIDDEN], b"/").map(|path| canonical(&path)));
        }
    }
    all.retain(|path| path != hop.path);
    all.sort();
    all.dedup();
    all
}

/// An escape that no path of a request has: stands for an escaped slash that is kept.
const HIDDEN: &[u8] = b"%01";

/// With each of `from`, all of one length, replaced; `None` where `to` is in the text already.
fn replaced(text: &[u8], from: &[&[u8]], to: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), text);
    if to.len() > 1 && text.windows(to.len()).any(|window| window == to) {
        return None;
    }
    while let Some((byte, tail)) = rest.split_first() {
        match from.iter().find_map(|from| rest.strip_prefix(*from)) {
            Some(behind) => {
                out.extend_from_slice(to);
                rest = behind;
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    Some(out)
}

fn merged(path: &[u8]) -> Vec<u8> {
    let mut out = path.to_vec();
    out.dedup_by(|a, b| *a == b'/' && *b == b'/');
    out
}

/// Hosts by which a server may know itself, out of the name of the client's cluster
/// (`outbound|8080||cart.shop.svc.cluster.local`).
fn cluster_hosts(side: &HopSide<'_>) -> Vec<Vec<u8>> {
    let cluster = side.own.as_ref().map_or(&[][..], |own| own.cluster);
    let host = cluster.rsplit(|byte| *byte == b'|').next().unwrap_or_default();
    let labels: Vec<_> = host.split(|byte| *byte == b'.').collect();
    let mut lengths = vec![1, 2, 3, labels.len()];
    lengths.retain(|length| *length <= labels.len());
    lengths.dedup();
    let hosts = lengths.into_iter().map(|length| labels[..length].join(&b'.'));
    hosts.filter(|host| !host.is_empty()).collect()
}
