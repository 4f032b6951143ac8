#!/usr/bin/env bash
# Brings the Kubernetes lab up, runs the tests of e2e/tests/kube*.rs in it, takes it down, and ends with their sum.
#
#   e2e/kube/test.sh [FLAGS OF kube up]      TEST=NAME runs those whose name contains it
#
# UPGRADE=1: builds the version before where it is missing (e2e/kube/before.sh), which the upgrade test needs; without that
# and without the version the test is not run, and named at the end.
set -euo pipefail

cd "$(dirname "$0")/../.."
log=$(mktemp)
id=
finish() {
    [ -z "$id" ] || target/debug/kube --lab "$id" down
    rm -f "$log"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cargo build --locked --workspace --bins
cargo test --locked -p mesh-e2e --test 'kube*' --no-run
id=$(target/debug/kube up --quiet "$@")
readonly upgrade=a_mesh_whose_peers_read_etcd
skip=()
if [ "${UPGRADE:-}" != 1 ] && ! e2e/kube/before.sh --present >/dev/null; then
    skip=(--skip "$upgrade")
fi
status=0
# One at a time: they share the lab.
CLUSTERMESH_KUBE_LAB=$id cargo test --locked -p mesh-e2e --test 'kube*' --no-fail-fast -- \
    --ignored --nocapture --test-threads=1 "${skip[@]}" ${TEST:+"$TEST"} 2>&1 | tee "$log" || status=$?
awk '
    /^test result:/ { passed += $4; failed += $6; filtered += $12 }
    END {
        printf "kube tests: %d passed, %d failed, %d filtered out\n", passed, failed, filtered
        if (passed + failed == 0) { print "kube tests: none ran, which is a failure"; exit 1 }
    }
' "$log" || status=1
[ ${#skip[@]} = 0 ] || echo "kube tests: NOT RUN: $upgrade (UPGRADE=1 builds the version before, some minutes)"
exit "$status"
