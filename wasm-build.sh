#!/usr/bin/env bash
# Builds the filter; prints its path, size and sha256.
set -euo pipefail
cd "$(dirname "$0")"
# The filter hashes four messages at a time (filter/src/lanes.rs).
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-C target-feature=+simd128"
cargo build --locked --quiet -p meshchain-filter --profile release-wasm --target wasm32-wasip1
folder=${CARGO_TARGET_DIR:-target}/wasm32-wasip1/release-wasm
module=$folder/meshchain_filter.wasm
cargo run --locked --quiet --release -p meshchain-filter-finish -- "$folder/deps/meshchain_filter.wasm" "$module"
printf '%s\n%s bytes\nsha256 %s\n' "$module" "$(wc -c <"$module")" "$(sha256sum "$module" | cut -d' ' -f1)"
