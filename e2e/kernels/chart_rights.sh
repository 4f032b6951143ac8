#!/usr/bin/env bash
# Runs the agent in a guest as the chart runs it on a node: as root with exactly the chart's capabilities and no way to
# more, on the guest's real root cgroup, in a pod's cgroup below it; and dials a ClusterIP from another pod's.
#
#   e2e/kernels/chart_rights.sh KERNEL        KERNEL is one of the file `matrix`
#
# The capabilities are what the chart renders (deploy/chart/golden, which deploy/chart/check.sh compares with the chart).
set -euo pipefail

cd "$(dirname "$0")/../.."
kernel=${1:?a kernel of e2e/kernels/matrix}
fail() {
    echo "kernels: $*" >&2
    exit 1
}

# The security context of the DaemonSet's container.
context=$(awk '/^# Source: /{ here = /agent-daemonset/ } here && /securityContext:/{ on = 1 } on { print } on && /capabilities:/{ exit }' \
    deploy/chart/golden/minimal.yaml)
for line in 'runAsUser: 0' 'privileged: false' 'allowPrivilegeEscalation: false' 'drop: \[ALL\]'; do
    grep -q "$line" <<<"$context" || fail "the chart's agent no longer has $line; this test gives it other rights than the chart"
done
names=$(sed -n 's/.*add: \[\(.*\)\]}.*/\1/p' <<<"$context" | tr -d '" ' | tr 'A-Z' 'a-z')
[ -n "$names" ] || fail "the chart's capabilities can't be read"
capabilities=-all,+${names//,/,+}
echo "kernels: the agent gets $capabilities"

exec e2e/kernels/run.sh -f "${NODE_AGENT:-target/debug/node-agent}:/bin/node-agent" -f "$(command -v setpriv)" \
    -f e2e/kernels/chart_rights_guest.sh:/chart_rights_guest.sh "$kernel" "CAPABILITIES=$capabilities sh /chart_rights_guest.sh"
