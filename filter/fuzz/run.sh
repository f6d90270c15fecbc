#!/usr/bin/env bash
# Fuzzes the filter: `run.sh SECONDS` for each target. What makes one fail is kept under target/fuzz.
set -euo pipefail
cd "$(dirname "$0")"
# Coverage as libFuzzer wants it; no sanitizer, so that a stable compiler will do.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
work=${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz
export CARGO_TARGET_DIR=$work/build
# With --target, build scripts and macros are built without coverage.
triple=$(rustc -vV | sed -n 's/^host: //p')
cargo build --locked --quiet --release --target "$triple"
for target in headers host; do
  mkdir -p "$work/$target/corpus"
  "$CARGO_TARGET_DIR/$triple/release/$target" "$work/$target/corpus" -max_total_time="$1" -max_len=8192 \
    -artifact_prefix="$work/$target/" -print_final_stats=1 2>&1 | tail -n 8
done
