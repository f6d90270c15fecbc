#!/usr/bin/env bash
# Builds the filter; prints its path, size and sha256.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --locked --quiet -p meshchain-filter --profile release-wasm --target wasm32-wasip1
module=${CARGO_TARGET_DIR:-target}/wasm32-wasip1/release-wasm/meshchain_filter.wasm
printf '%s\n%s bytes\nsha256 %s\n' "$module" "$(wc -c <"$module")" "$(sha256sum "$module" | cut -d' ' -f1)"
