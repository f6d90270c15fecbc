//! Who reads: for a share of what all readers have.

use super::Doors;
use super::stall::Moved;
use crate::xfcc;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The connection of a reader.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// Tells it to go.
    pub go: Arc<Notify>,
    /// What its peer took.
    pub moved: Moved,
}

/// Who reads, and over which connection.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    /// The principal that mTLS proved where the configuration lets it be told, else the address.
    pub name: String,
    /// Its connection.
    pub wire: Wire,
}

/// The connection of a request that came over none.
fn nowhere() -> Wire {
    Wire { go: Arc::default(), moved: Moved::new(Instant::now()) }
}

impl FromRequestParts<Arc<Doors>> for Reader {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, Infallible> {
        let values = parts.headers.get_all("x-forwarded-client-cert").iter();
        let known = doors.ingest.principal_from_xfcc;
        let principal = known.then(|| xfcc::principal(values.map(|value| value.as_bytes())).ok());
        let peer = || parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let address = || peer().map(|ip| ip.to_string()).unwrap_or_default();
        Ok(Self {
            name: principal.flatten().unwrap_or_else(address),
            wire: parts.extensions.get().cloned().unwrap_or_else(nowhere),
        })
    }
}
