#!/bin/sh
# Checks licences, bans and sources of all dependencies; installs cargo-deny on first use.
# The advisory database lives outside the package registry: it is checked where it can be reached.
set -eu
version=0.20.2
if ! cargo deny --version >/dev/null 2>&1; then
    echo "deny: installing cargo-deny $version (a few minutes, once)"
    cargo install --quiet --locked cargo-deny@$version
fi
cargo deny --log-level error check bans licenses sources
if [ "${BSTAR_ADVISORIES:-0}" = 1 ]; then
    cargo deny --log-level error check advisories
else
    echo "deny: advisories skipped (set BSTAR_ADVISORIES=1 to fetch the database and check them)"
fi
