#!/usr/bin/env bash
# Builds the version from which the upgrade test comes: the last one whose peers read etcd directly, with certificates of a
# script. Prints the folder, which holds its programs, its chart and that script. A second run takes no time.
#
#   e2e/kube/before.sh [--present]      --present: builds nothing, and fails where it is missing
#
# CLUSTERMESH_CACHE   where it is kept (default: ~/.cache/clustermesh)
set -euo pipefail

# The last commit before anything served or asked for identities.
readonly COMMIT=e14c7640af7e58e3b992145b65947818b06963b5
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/before/$COMMIT

say() { echo "kube: $*" >&2; }

if [ ! -e "$folder/done" ]; then
    [ "${1:-}" != --present ] || exit 1
    git -C "$root" cat-file -e "$COMMIT^{commit}" 2>/dev/null || {
        say "commit $COMMIT is not in this clone: git fetch --unshallow"
        exit 1
    }
    say "building the version before, $COMMIT"
    rm -rf "$folder"
    mkdir -p "$folder/source" "$folder/bin"
    git -C "$root" archive "$COMMIT" | tar -x -C "$folder/source"
    (
        cd "$folder/source"
        export CARGO_TARGET_DIR=$folder/target CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
        cargo build --locked -p node-agent -p clustermesh-apiserver -p clustermesh >&2
    )
    for program in node-agent clustermesh-apiserver clustermesh; do
        strip -o "$folder/bin/$program" "$folder/target/debug/$program"
    done
    mv "$folder/source/deploy/chart/clustermesh" "$folder/chart"
    mv "$folder/source/deploy/certificates.sh" "$folder/"
    rm -rf "$folder/source" "$folder/target"
    touch "$folder/done"
fi
echo "$folder"
