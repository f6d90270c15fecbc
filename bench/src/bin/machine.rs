//! What the machine itself can do: the yardstick beside the collector's numbers.

use anyhow::Result;
use clap::Parser;
use meshchain_bench::times::{Spread, timed};
use meshchain_core::hash::tagged;
use serde_json::json;
use std::fs::{File, remove_file};
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;
const WRITTEN_MIB: usize = 256;
const SYNCS: usize = 300;
/// An entry behind the leaf prefix of RFC 6962: what the collector hashes most.
const ENTRY: usize = 91;

/// Measures durable writes and SHA-256; prints JSON.
#[derive(Parser)]
struct Args {
    /// Directory on the disk to measure
    directory: PathBuf,
    /// Only write this many bytes in a row, as something did that was measured ...
    #[arg(long, requires = "syncs")]
    bytes: Option<usize>,
    /// ... with this many fdatasyncs, evenly between them
    #[arg(long)]
    syncs: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let path = args.directory.join("machine.tmp");
    if let (Some(bytes), Some(syncs)) = (args.bytes, args.syncs) {
        println!("{}", json!({ "seconds": write_like(&path, bytes, syncs.max(1))? }));
        return Ok(remove_file(&path)?);
    }
    let rates = (write_rate(&path)?, sync_time(&path)?);
    remove_file(&path)?;
    let (write_mb_s, sync) = rates;
    let numbers = json!({
        "write_mb_per_s": write_mb_s,
        "fdatasync_us": sync.p50_us,
        "sha256_mb_per_s": { "91_bytes": hash_rate(ENTRY), "16_kib": hash_rate(16 << 10) },
    });
    println!("{numbers}");
    Ok(())
}

/// MB/s of a sequential write with one fdatasync at its end.
fn write_rate(path: &Path) -> Result<f64> {
    let block: Vec<u8> = (0..MIB).map(|at| (at * 31 % 251) as u8).collect();
    let mut file = File::create(path)?;
    let (took, written) = timed(|| -> std::io::Result<()> {
        for _ in 0..WRITTEN_MIB {
            file.write_all(&block)?;
        }
        file.sync_data()
    });
    written?;
    Ok((WRITTEN_MIB * MIB) as f64 / 1e6 / took.as_secs_f64())
}

/// Seconds that a log takes that writes `bytes` in `syncs` equal pieces, each made durable.
fn write_like(path: &Path, bytes: usize, syncs: usize) -> Result<f64> {
    let piece: Vec<u8> = (0..bytes / syncs).map(|at| (at * 31 % 251) as u8).collect();
    let mut file = File::create(path)?;
    let (took, written) = timed(|| {
        (0..syncs).try_for_each(|_| file.write_all(&piece).and_then(|()| file.sync_data()))
    });
    written?;
    Ok(took.as_secs_f64())
}

/// Time of an append of 4 KiB and its fdatasync.
fn sync_time(path: &Path) -> Result<Spread> {
    let mut file = File::create(path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let (took, written) = timed(|| file.write_all(&[7; 4096]).and_then(|()| file.sync_data()));
        written?;
        times.push(took);
    }
    Ok(Spread::of(times))
}

/// MB/s of hashing messages of `length` bytes one after another.
fn hash_rate(length: usize) -> f64 {
    let message = vec![7; length];
    let count = 64 * MIB / length;
    let (took, ()) = timed(|| {
        for _ in 0..count {
            black_box(tagged(&[], &[black_box(&message)]));
        }
    });
    (count * length) as f64 / 1e6 / took.as_secs_f64()
}
