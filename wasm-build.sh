#!/usr/bin/env bash
# Builds the filter; prints its path, size and sha256, which is the same wherever it is built.
set -euo pipefail
cd -P "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-target}
cargo_home=${CARGO_HOME:-~/.cargo}

# The filter hashes four messages at a time (filter/src/lanes.rs).
flags=(-Ctarget-feature=+simd128)
# Panics name their source files; these names take the place of this machine's folders. The last that fits counts.
remap() { # FOLDER NAME
  if [[ $1 == /* ]]; then flags+=("--remap-path-prefix=$1=$2"); else remap "$PWD/$1" "$2"; fi
}
remap "$PWD" /meshchain
remap "$target" /target
# As in a toolchain without the component rust-src.
remap "$(rustc --print sysroot)/lib/rustlib/src/rust" "/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')"
remap "$cargo_home" /cargo
cargo fetch --locked --quiet --target wasm32-wasip1
for registry in "$cargo_home"/registry/src/*/; do # one for crates.io, or for its mirror
  remap "$registry" /crates
done

# Nothing else of the environment's or of cargo's configuration has a say: no other flags, no other profile, no other
# place. What stands in the command goes before all files.
unset "${!CARGO_PROFILE_@}" "${!CARGO_BUILD_@}"
export CARGO_INCREMENTAL=0
profile=(opt-level=3 'lto="fat"' codegen-units=1 overflow-checks=false debug-assertions=false debug=\"line-tables-only\"
  'panic="abort"' 'strip="debuginfo"' incremental=false rpath=false 'split-debuginfo="off"')
folder=$target/wasm32-wasip1/release-wasm
module=$folder/meshchain_filter.wasm
rm -f "$module" "$folder/deps/meshchain_filter.wasm"
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") \
  cargo build --locked --quiet -p meshchain-filter --profile release-wasm --target wasm32-wasip1 --target-dir "$target" \
  "${profile[@]/#/--config=profile.release-wasm.}"
# With --workspace, as the Makefile builds everything, so that no dependency is built again.
cargo build --locked --quiet --release --workspace --target-dir "$target" --bin meshchain-filter-finish
"$target/release/meshchain-filter-finish" "$folder/deps/meshchain_filter.wasm" "$module"
printf '%s\n%s bytes\nsha256 %s\n' "$module" "$(wc -c <"$module")" "$(sha256sum "$module" | cut -d' ' -f1)"
