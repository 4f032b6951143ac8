#!/usr/bin/env bash
# Boots kernels and runs there what depends on the kernel; prints a table. Exits with 1 where something is red.
#
#   e2e/kernels/test.sh                  all kernels of the file `matrix`, all tests
#   e2e/kernels/test.sh --load KERNEL    that one, and only that every program loads: half a minute
#
# KERNELS   names out of the matrix, where not all of them are wanted
set -euo pipefail

cd "$(dirname "$0")/../.."
here=e2e/kernels
# What runs in the guests: integration tests of the node-agent. The first shows that the programs load, and what the
# verifier makes of them. A new one needs its name here, and in `files` what it reads at run time.
tests=(verifier hooks hooks_udp hooks_mptcp foreign failback upgrade)
[ "${1:-}" != --load ] || { tests=(verifier); KERNELS=${2:?a kernel}; }
KERNELS=${KERNELS:-$(awk '!/^#/ && NF { print $1 }' "$here/matrix")}

flags=()
for test in "${tests[@]}"; do
    flags+=(--test "$test")
done
files=()
while read -r name path; do
    files+=(-f "$path:/bin/$name")
done < <(cargo test --locked -p node-agent --no-run "${flags[@]}" 2>&1 | tee >(cat >&2) |
    sed -nE 's/^ *Executable tests\/([a-z_0-9]+)\.rs \((.*)\)$/\1 \2/p')
[ $((${#files[@]} / 2)) -eq ${#tests[@]} ] || { echo "kernels: the tests could not be built" >&2; exit 1; }
# The tests look for these where cargo has told them at compile time.
for path in target/debug/node-agent ebpf/object node-agent/tests/fixtures; do
    files+=(-f "$PWD/$path:$PWD/$path")
done

# How the agent does with the chart's capabilities on the guest's real root cgroup: ok, RED, or - where that is not run.
rights() {
    local name=$1 expect=$2
    [ "$expect" = loads ] && [ "${#tests[@]}" -gt 1 ] || { echo -; return 0; }
    if "$here/chart_rights.sh" "$name" >"$logs/$name.rights.log" 2>&1; then echo ok; else echo RED; fi
}

# Verdict and figures of one kernel, out of what the guest said.
row() {
    local name=$1 expect=$2 said=$3 rights=$4 release costs programs insns passed failed missing verdict=ok
    release=$(sed -n 's/^kernel: //p' "$said")
    costs=$(grep -aoE 'verifier: mesh_[a-z0-9]+ [a-z0-9]+' "$said" || true)
    programs=$(grep -c . <<<"$costs" || true)
    insns=$(sort -k3 -n <<<"$costs" | awk '$3 + 0 > 0 { line = $3 " (" $2 ")" } END { print line ? line : "not told" }')
    passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$said")
    failed=$(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$said")
    missing=$(sed -n 's/^missing: //p' "$said" | paste -sd, | sed 's/,/, /g')
    case $expect in
        loads) grep -q '^end: 0$' "$said" && [ "$failed" = 0 ] || verdict=RED ;;
        refuses) [ "$programs" = 0 ] && grep -q '^features: 1$' "$said" || verdict=RED ;;
    esac
    [ "$rights" != RED ] || verdict=RED
    printf '| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$name" "${release:-did not boot}" "$programs" "$insns" "$passed" "$failed" \
        "$rights" "${missing:--}" "$verdict"
    [ $verdict = ok ]
}

guest='echo "kernel: $(uname -r)"
node-agent features >/tmp/features 2>&1; echo "features: $?"; sed -n "s/^missing  *\([a-z0-9-]*\).*/missing: \1/p" /tmp/features
[ "$EXPECT" = loads ] || exit 0
status=0
for test in $TESTS; do $test --test-threads 1 --nocapture || status=1; done
echo "end: $status"'

table=$(mktemp)
logs=target/kernels
mkdir -p "$logs"
trap 'rm -f "$table"' EXIT
red=0
for kernel in $KERNELS; do
    expect=$(awk -v name="$kernel" '$1 == name { print $2 }' "$here/matrix")
    [ -n "$expect" ] || { echo "kernels: $here/matrix has no kernel $kernel" >&2; exit 2; }
    if ! "$here/kernel.sh" "$kernel" >/dev/null; then
        echo "kernels: NOT RUN: $kernel (its package can't be had, see above)"
        printf '| %s | NOT RUN: its package could not be had | | | | | | | |\n' "$kernel" >>"$table"
        continue
    fi
    echo "kernels: $kernel …"
    GUEST_SECONDS=${GUEST_SECONDS:-1200} "$here/run.sh" -f "$PWD/target/debug/node-agent" "${files[@]}" "$kernel" \
        "EXPECT=$expect TESTS='${tests[*]}'; $guest" >"$logs/$kernel.log" 2>&1 || true
    row "$kernel" "$expect" "$logs/$kernel.log" "$(rights "$kernel" "$expect")" >>"$table" || {
        red=1
        grep -ahE 'FAILED|panicked|^kernels:|^red:' "$logs/$kernel.log" "$logs/$kernel.rights.log" 2>/dev/null || true
    }
done
echo
echo "| kernel | release | programs | most instructions (verifier) | passed | failed | chart's rights | missing | |"
echo "|---|---|---|---|---|---|---|---|---|"
cat "$table"
for kernel in $KERNELS; do
    grep -aoh 'NOT RUN: .*' "$logs/$kernel.log" 2>/dev/null | sed "s/^/$kernel: /" || true
done
[ $red = 0 ] || echo "kernels: RED; what the guests said is in $logs" >&2
exit $red
