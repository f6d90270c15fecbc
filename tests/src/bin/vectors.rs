//! Writes `tests/vectors`; with `--check`, compares instead and fails on any difference.

use meshchain_tests::{cases, vector};
use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("unknown argument {other}; usage: vectors [--check]");
            return ExitCode::from(2);
        }
    };
    let made: BTreeMap<_, _> = cases::all().into_iter().map(|v| (v.name.clone(), v)).collect();
    let there: BTreeMap<_, _> = vector::load().into_iter().map(|v| (v.name.clone(), v)).collect();
    let stale: Vec<_> = there.keys().filter(|name| !made.contains_key(*name)).collect();
    let differing: Vec<_> = made
        .iter()
        .filter(|(name, v)| there.get(*name).map(|t| &t.json) != Some(&v.json))
        .collect();
    if check {
        for name in stale.iter().copied().chain(differing.iter().map(|(name, _)| *name)) {
            eprintln!("{name}.json differs from what the generator writes");
        }
        return ExitCode::from(u8::from(!stale.is_empty() || !differing.is_empty()));
    }
    for name in &stale {
        std::fs::remove_file(vector::folder().join(format!("{name}.json"))).expect("removable");
    }
    for (name, vector) in &made {
        std::fs::write(vector::folder().join(format!("{name}.json")), vector.print())
            .expect("writable");
    }
    println!("{} vectors, {} changed, {} removed", made.len(), differing.len(), stale.len());
    ExitCode::SUCCESS
}
