#!/usr/bin/env bash
# Runs every fuzz target for a while: fuzz/run.sh [SECONDS] [TARGET…]
#
# Stable Rust is enough: libFuzzer's runtime comes with libfuzzer-sys (a C++ compiler builds it), and what cargo-fuzz asks
# of a nightly compiler, coverage by LLVM's own pass, stable takes as code generation options. With a nightly compiler
# `cargo fuzz run TARGET` works here, too.
set -euo pipefail

cd "$(dirname "$0")"
seconds=${1:-60}
shift $(($# > 0 ? 1 : 0))
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | tail -n +2)

host=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1)
# With --target the flags are not for build scripts, which have no libFuzzer to link.
RUSTFLAGS="${flags[*]}" cargo build --locked --target "$host" --bins

# The goldens are the seeds: records of the scenarios one by one and as a list, the agent's answers, and an invite.
seed() {
    local into=seeds.golden records
    rm -rf "$into"
    mkdir -p "$into"/{key,record,view,admin,invite}
    for scenario in ../crates/model/tests/scenarios/*.txt; do
        records=$(grep '^clustermesh/v1/' "$scenario")
        printf 'begin\n%s\nend\n' "$records" >"$into/view/$(basename "$scenario")"
        awk -v into="$into" -v scenario="$(basename "$scenario" .txt)" '{
            key = $1; value = substr($0, length($1) + 2); number += 1
            printf "%s", key > (into "/key/" scenario number)
            printf "%s\n%s", key, value > (into "/record/" scenario number)
        }' <<<"$records"
    done
    cp ../node-agent/tests/golden/*.json "$into/admin/"
    cp ../crates/membership/tests/golden/* "$into/invite/"
    split -l 1 ../node-agent/tests/golden/events.ndjson "$into/admin/event-"
}
seed

found=()
for target in "${targets[@]}"; do
    echo "fuzz: $target for $seconds s"
    mkdir -p "corpus/$target" artifacts
    folders=("corpus/$target")
    for seeds in "seeds/$target" "seeds.golden/$target"; do
        [ ! -d "$seeds" ] || folders+=("$seeds")
    done
    "target/$host/debug/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -len_control=100 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="artifacts/$target-" "${folders[@]}" 2>&1 |
        { grep -vE '^(INFO|Dictionary|stat::(new|slow))|NEW_FUNC|WARNING: Failed to find function|# Uses: |###### ' || true; } ||
        found+=("$target")
done
if [ ${#found[@]} -gt 0 ]; then
    echo "fuzz: findings in ${found[*]}; the inputs are in fuzz/artifacts: begin with a failing test" >&2
    exit 1
fi
echo "fuzz: ${#targets[@]} targets, no finding"
