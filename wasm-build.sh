#!/usr/bin/env bash
# Builds the filter; prints its path, size and sha256.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --locked --quiet -p meshchain-filter --profile release-wasm --target wasm32-wasip1
folder=${CARGO_TARGET_DIR:-target}/wasm32-wasip1/release-wasm
module=$folder/meshchain_filter.wasm
# The linker's output stays as it is, so that cargo sees it as fresh.
cp "$folder/deps/meshchain_filter.wasm" "$module.new"
python3 filter/strip_exports.py "$module.new"
mv "$module.new" "$module"
printf '%s\n%s bytes\nsha256 %s\n' "$module" "$(wc -c <"$module")" "$(sha256sum "$module" | cut -d' ' -f1)"
