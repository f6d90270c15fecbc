//! The filter in one place of the configuration: a root context.

use crate::attributes::Expressions;
use crate::config::{Config, parse};
use crate::context::Tracer;
use crate::host::{Host, Level};

/// What one place has for itself. Others in the same VM have their own: a bad configuration in one namespace
/// says nothing about the mesh's.
#[derive(Debug, Default)]
pub struct Place {
    /// `None` while the configuration is missing or bad: the filter is off here.
    pub config: Option<Config>,
    /// What the configuration had that was ignored.
    pub notices: Vec<String>,
    /// How attributes are asked for here.
    pub expressions: Expressions,
    /// What its calls have shown of a tracer.
    pub tracer: Tracer,
}

impl Place {
    /// Reads the configuration; never fails.
    pub fn configure(host: &impl Host, json: &[u8]) -> Self {
        let parsed = parse(json);
        for notice in &parsed.notices {
            host.log(Level::Warn, &format!("meshchain: configuration: {notice}"));
        }
        let config = parsed.config.inspect_err(|fault| {
            let message = format!("meshchain: off, the configuration is bad: {fault}");
            host.log(Level::Warn, &message);
        });
        Self {
            config: config.ok(),
            notices: parsed.notices,
            expressions: Expressions::create(host),
            tracer: Tracer::default(),
        }
    }
}
