#!/bin/sh
# Runs the tests: with cargo-nextest where it is installed, otherwise with cargo's own runner.
set -eu
export OMP_NUM_THREADS=1 RUST_BACKTRACE=0
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --release --workspace --no-fail-fast
else
    cargo test --release --workspace --lib --bins --examples --tests --no-fail-fast
fi
cargo test --release --workspace --doc
