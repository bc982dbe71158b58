#!/bin/sh
# Runs the tests: with cargo-nextest where it is installed, otherwise with cargo's own runner.
# Tests that cannot check what they should on this machine note it in $BSTAR_SKIPPED; the end tells.
set -eu
export OMP_NUM_THREADS=1 RUST_BACKTRACE=0
BSTAR_SKIPPED=$(mktemp)
export BSTAR_SKIPPED
# Some tests compare with transformers and PEFT themselves, where a Python has them.
has_peers='import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ["torch", "transformers", "peft"])))'
if [ -z "${BSTAR_PYTHON:-}" ]; then
    for python in "${VIRTUAL_ENV:-none}/bin/python" .venv/bin/python venv/bin/python python3; do
        if "$python" -c "$has_peers" 2>/dev/null; then
            BSTAR_PYTHON=$python
            # Tests run in the folders of their packages.
            case $python in */*) BSTAR_PYTHON=$(cd "$(dirname "$python")" && pwd)/python ;; esac
            export BSTAR_PYTHON
            break
        fi
    done
fi
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
cargo test --release --workspace --doc
