#!/usr/bin/env bash
# Checks the Helm chart: helm lint; every values file in cases/ renders exactly what golden/ holds; every one in refused/ is
# refused with the text of its first line. What can't be checked here is said by name.
#
#   deploy/chart/check.sh             compare
#   deploy/chart/check.sh --update    write golden/ anew
set -euo pipefail

cd "$(dirname "$0")"
readonly KUBE_VERSION=1.34.0
helm=$(../../setup/tool.sh helm --present) || {
    echo "lint: NOT CHECKED: the Helm chart (no helm here; setup/tool.sh helm builds one)"
    exit 0
}

render() {
    "$helm" template clustermesh clustermesh --namespace clustermesh --kube-version "$KUBE_VERSION" --values "$1" 2>&1
}

failed=0
complain() {
    echo "deploy/chart: $*" >&2
    failed=1
}

check_case() {
    local case=$1 golden=golden/$1.yaml rendered
    "$helm" lint --quiet clustermesh --values "cases/$case.yaml" || complain "helm lint fails for cases/$case.yaml"
    if ! rendered=$(render "cases/$case.yaml"); then
        complain "cases/$case.yaml does not render: $rendered"
    elif [ "$update" = yes ]; then
        printf '%s\n' "$rendered" >"$golden"
    elif ! diff -u "$golden" <(printf '%s\n' "$rendered"); then
        complain "cases/$case.yaml renders something else than $golden; deploy/chart/check.sh --update, if it shall"
    fi
}

check_refusal() {
    local file=$1 expected said
    expected=$(sed -n '1s/^# expected: //p' "$file")
    [ -n "$expected" ] || { complain "$file does not say what is expected"; return; }
    if said=$(render "$file"); then
        complain "$file renders, but must be refused"
    elif ! grep -qF -- "$expected" <<<"$said"; then
        complain "$file is refused without saying '$expected': $said"
    fi
}

update=no
[ "${1:-}" != --update ] || update=yes
mkdir -p golden
cases=0 refusals=0
for file in cases/*.yaml; do
    check_case "$(basename "$file" .yaml)"
    cases=$((cases + 1))
done
for file in golden/*.yaml; do
    [ -e "cases/$(basename "$file")" ] || complain "$file belongs to no case"
done
for file in refused/*.yaml; do
    check_refusal "$file"
    refusals=$((refusals + 1))
done
[ "$failed" = 0 ] || exit 1
echo "deploy/chart: $cases renderings as expected, $refusals refusals as expected"
