#!/usr/bin/env bash
# Runs all tests and ends with their sum.
set -euo pipefail

cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The labs start the binaries, so that all of them must be there before the first test runs.
cargo build --locked --workspace --bins
status=0
cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?
awk '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    /^test .* \.\.\. ignored/ { names = names "\n  not run: " $2 }
    END { printf "tests: %d passed, %d failed, %d ignored%s\n", passed, failed, ignored, names }
' "$log"
exit "$status"
