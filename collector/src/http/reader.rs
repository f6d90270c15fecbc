//! Who reads: for a share of what all readers have.

use super::Doors;
use crate::xfcc;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

/// The principal that mTLS proved where the configuration lets it be told, else the address.
pub(super) struct Reader(pub String);

impl FromRequestParts<Arc<Doors>> for Reader {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, Infallible> {
        let values = parts.headers.get_all("x-forwarded-client-cert").iter();
        let principal = doors
            .ingest
            .principal_from_xfcc
            .then(|| xfcc::principal(values.map(|value| value.as_bytes())).ok());
        let peer = || parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let address = || peer().map(|ip| ip.to_string()).unwrap_or_default();
        Ok(Self(principal.flatten().unwrap_or_else(address)))
    }
}
