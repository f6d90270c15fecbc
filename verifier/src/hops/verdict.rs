//! What a verdict on a hop says, as data and in a line. Foreign text in it has gone through
//! [`crate::shown()`].

use super::side::HopSide;
use meshchain_core::{SessionId, Side};
use serde::Serialize;

/// What the two sides of a hop say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HopAgreement {
    /// Each entry has one of the other side with an equal digest, of another proxy.
    #[default]
    Agree,
    /// So has the client's; the server's side has more, which the client's disclosed attempts cover.
    AgreeAttempts,
    /// So has the client's; the server's side has more, and nothing that is disclosed accounts for it.
    ExtraServerEntry,
    /// Both sides are there, and say different things.
    Dispute,
    /// The server's side is one of a copy that a mesh sent to a shadow, or has one besides.
    Mirrored,
    /// An entry of one side has none of the other.
    OneSided,
    /// Both sides are of one session or one principal: nobody else vouches for the call.
    OneProxy,
}

impl HopAgreement {
    /// All, in the order of the table in `docs/trust.md`.
    pub const ALL: [Self; 7] = [
        Self::Agree,
        Self::AgreeAttempts,
        Self::ExtraServerEntry,
        Self::Dispute,
        Self::Mirrored,
        Self::OneSided,
        Self::OneProxy,
    ];

    /// Name, as in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::AgreeAttempts => "agree_attempts",
            Self::ExtraServerEntry => "extra_server_entry",
            Self::Dispute => "dispute",
            Self::Mirrored => "mirrored",
            Self::OneSided => "one_sided",
            Self::OneProxy => "one_proxy",
        }
    }
}

/// In whose logs the two sides of an agreement stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// In two logs, which the policy does not say are of one operator.
    TwoLogs,
    /// In one log, or in two of one operator: who keeps one side keeps the other.
    OneOperator,
    /// In logs that nobody vouches for.
    Unknown,
}

/// A field that the two sides state otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `method`, `authority`, `path`, `request_id`, `status`, `overflow` or `session`.
    pub field: &'static str,
    /// At the client.
    pub client: String,
    /// At the server.
    pub server: String,
}

impl Difference {
    pub(super) fn new(
        field: &'static str,
        client: impl Into<String>,
        server: impl Into<String>,
    ) -> Self {
        Self { field, client: client.into(), server: server.into() }
    }
}

/// Why a side may be missing, or what accounts for a dispute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The other side has no identity of a mesh: it is outside of any, or its proxy was bypassed.
    Edge,
    /// The sender's own proxy answered: the request, or the response, never crossed.
    LocalReply,
    /// A proxy followed a redirect itself, and the other leg is another request.
    InternalRedirect,
    /// The client sent no trace context, so the server's proxy made one.
    NoContext,
    /// The client sent no request id, so the server's proxy made one.
    NoRequestId,
    /// A `..` over an escaped slash or an empty segment, which listeners resolve differently.
    DotsOverSlash,
    /// The own part is not shown.
    NotShown,
}

impl Why {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Edge => {
                "the other side had no mesh identity: outside of any mesh, or past its proxy"
            }
            Self::LocalReply => "the sender's own proxy answered",
            Self::InternalRedirect => "a proxy followed a redirect itself",
            Self::NoContext => "the client sent no trace context (context: never)",
            Self::NoRequestId => "the client sent no request id",
            Self::DotsOverSlash => {
                "a `..` over an escaped slash or an empty segment, which the two meshes resolve \
                 differently: they forward requests for two resources"
            }
            Self::NotShown => "the own part is not shown; it may tell why",
        }
    }
}

/// Whether the server's record names the session that the client's entry came with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionNamed {
    /// It does: the other side attests whose key spoke for this one.
    Attested,
    /// It names another, with which the client's entry is not connected: the proxy began a new session in between, or
    /// the client's collector made this one up.
    Other {
        /// The one that it names.
        #[serde(with = "hex::serde")]
        named: SessionId,
    },
    /// It names none: the client's proxy did not say, or a hop on the way took the header out.
    NotNamed,
    /// No server-side record, or no client's entry, is there to compare.
    #[default]
    NotShown,
}

/// The verdict on a hop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HopVerdict {
    /// What the sides say.
    pub agreement: HopAgreement,
    /// Pairs of entries that agree, each of two proxies.
    pub pairs: usize,
    /// Server entries that the client's attempts cover.
    pub attempts: Option<u32>,
    /// In whose logs the pairs stand; absent where there is none.
    pub spread: Option<Spread>,
    /// What differs, as far as it could be found.
    pub differs: Vec<Difference>,
    /// Why a side may be missing, or what accounts for a dispute.
    pub why: Vec<Why>,
    /// Whether the other side attests the client's session.
    pub session: SessionNamed,
    /// One line.
    pub detail: String,
}

impl HopVerdict {
    /// Whether both sides are there, of two proxies, and nothing contradicts or is left over.
    pub fn agrees(&self) -> bool {
        use HopAgreement::{Agree, AgreeAttempts, Mirrored};
        self.pairs > 0 && matches!(self.agreement, Agree | AgreeAttempts | Mirrored)
    }

    fn new(agreement: HopAgreement, pairs: usize, detail: impl Into<String>) -> Self {
        Self { agreement, pairs, detail: detail.into(), ..Self::default() }
    }

    pub(super) fn agree(pairs: usize) -> Self {
        let detail = match pairs {
            1 => "both sides' digests are equal".to_owned(),
            _ => format!("both sides' digests are equal, of {pairs} calls under one span id"),
        };
        Self::new(HopAgreement::Agree, pairs, detail)
    }

    pub(super) fn attempts(pairs: usize, count: u32) -> Self {
        let detail = format!("both sides agree, in {count} attempts");
        let attempts = Some(count);
        Self { attempts, ..Self::new(HopAgreement::AgreeAttempts, pairs, detail) }
    }

    pub(super) fn extra(pairs: usize, more: usize, tell: &str) -> Self {
        let entries = if more == 1 { "entry" } else { "entries" };
        let detail = format!("{more} extra server {entries}: {tell}");
        Self::new(HopAgreement::ExtraServerEntry, pairs, detail)
    }

    pub(super) fn mirrored(pairs: usize, copies: usize) -> Self {
        let copies = if copies == 1 { "a copy" } else { "copies" };
        let detail = match pairs {
            0 => format!("{copies} of the call, sent to a shadow (-shadow)"),
            _ => format!("both sides' digests are equal; {copies} went to a shadow (-shadow)"),
        };
        Self::new(HopAgreement::Mirrored, pairs, detail)
    }

    pub(super) fn one_proxy(pairs: usize) -> Self {
        let detail = "one proxy wrote both sides, by session or principal: nobody else vouches";
        Self::new(HopAgreement::OneProxy, pairs, detail)
    }

    pub(super) fn one_sided(
        side: &HopSide<'_>,
        pairs: usize,
        mirrored: usize,
        why: Vec<Why>,
    ) -> Self {
        let (here, there) = match side.sends() {
            true => ("client", "server"),
            false => ("server", "client"),
        };
        let here = match side.entry.side {
            Side::GatewayOut | Side::GatewayIn => format!("{here} side (a gateway's)"),
            Side::Client | Side::Server => format!("{here} side"),
        };
        let besides = if pairs > 0 { ", beside a pair that agrees" } else { "" };
        let copy = if mirrored > 0 { "; its copy went to a shadow" } else { "" };
        let mut detail = format!("{here} only; no {there} entry{besides}{copy}");
        for why in &why {
            detail = format!("{detail}; {}", why.words());
        }
        Self { why, ..Self::new(HopAgreement::OneSided, pairs, detail) }
    }

    /// The digests differ, and it cannot be told in what; `tell` says what would help.
    pub(super) fn unexplained(pairs: usize, tell: &str) -> Self {
        Self::new(HopAgreement::Dispute, pairs, format!("the digests differ: {tell}"))
    }

    pub(super) fn dispute(pairs: usize, differs: Vec<Difference>, why: Vec<Why>) -> Self {
        let mut detail = match differs.as_slice() {
            [Difference { field: "status", client, server }] => format!(
                "same request, other outcome: status {client} at the client, {server} at the server"
            ),
            all => {
                let one = |d: &Difference| {
                    format!(
                        "{} {:?} at the client, {:?} at the server",
                        d.field, d.client, d.server
                    )
                };
                format!("the sides differ: {}", all.iter().map(one).collect::<Vec<_>>().join("; "))
            }
        };
        for why in &why {
            detail = format!("{detail}; {}", why.words());
        }
        Self { differs, why, ..Self::new(HopAgreement::Dispute, pairs, detail) }
    }
}
