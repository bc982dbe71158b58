#!/bin/sh
# Runs the tests: with cargo-nextest where it is installed, otherwise with cargo's own runner.
# Tests that cannot check what they should on this machine note it in $BSTAR_SKIPPED; the end tells.
set -eu
export OMP_NUM_THREADS=1 RUST_BACKTRACE=0
BSTAR_SKIPPED=$(mktemp)
export BSTAR_SKIPPED
conclude() {
    status=$?
    echo "tests: $(wc -l <"$BSTAR_SKIPPED") skipped"
    sort -u "$BSTAR_SKIPPED"
    rm -f "$BSTAR_SKIPPED"
    exit "$status"
}
trap conclude EXIT
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --release --workspace --no-fail-fast
else
    cargo test --release --workspace --lib --bins --examples --tests --no-fail-fast
fi
cargo test --release -p bstar-stages --features download --lib hub::
cargo test --release --workspace --doc
