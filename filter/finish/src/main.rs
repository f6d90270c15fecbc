//! `meshchain-filter-finish LINKED MODULE`: writes the module that Envoy loads.

use anyhow::{Context, Result, bail};
use meshchain_filter_finish::finish;
use std::path::PathBuf;

fn main() -> Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [linked, module] = paths.as_slice() else {
        bail!("usage: meshchain-filter-finish LINKED MODULE");
    };
    let bytes = std::fs::read(linked).with_context(|| linked.display().to_string())?;
    let bytes = finish(&bytes).with_context(|| linked.display().to_string())?;
    // Who reads the module meanwhile has the one or the other.
    let new = module.with_extension("new");
    std::fs::write(&new, bytes).with_context(|| new.display().to_string())?;
    std::fs::rename(&new, module).with_context(|| module.display().to_string())
}
