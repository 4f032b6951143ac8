#!/usr/bin/env bash
# Checks what can be checked without running anything. Goes on after a failure, so that one run shows all.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
failed=()
check() {
    echo "lint: $1"
    "${@:2}" || failed+=("$1")
}

# Advisories live in a repository of their own, which may be out of reach; then this says so, and checks the rest.
deny() {
    local checks=(bans licenses sources)
    if cargo deny --locked fetch db >/dev/null 2>&1; then
        checks+=(advisories)
    else
        echo "lint: NOT CHECKED: advisories (their database cannot be fetched from here)"
    fi
    cargo deny --locked check --hide-inclusion-graph "${checks[@]}"
}

workflows() {
    local actionlint
    if actionlint=$(setup/tool.sh actionlint --present); then
        "$actionlint"
    else
        echo "lint: NOT CHECKED: workflows (no actionlint here; setup/tool.sh actionlint builds one)"
    fi
}

# The command line is for laptops too. Checking needs that platform's std, and neither its linker nor its SDK.
laptop() {
    local target=aarch64-apple-darwin
    if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
        cargo clippy --locked --package clustermesh --target "$target" -- -D warnings
    else
        echo "lint: NOT CHECKED: clustermesh for macOS (rustup target add $target)"
    fi
}

# Files that are only sourced have no shebang to say which shell they are for.
scripts() {
    local files
    mapfile -t files < <(git grep -lE '^#!.*\b(ba)?sh$' -- '*.sh' .ci/run)
    shellcheck --severity=warning "${files[@]}"
}

check "format" cargo fmt --all --check
check "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
check "the command line for macOS" laptop
check "the eBPF object" ebpf/check.sh
check "dependencies" deny
check "the Helm chart" deploy/chart/check.sh
check "kind" e2e/kind/check.sh
check "workflows" workflows
if command -v shellcheck >/dev/null; then
    check "shell scripts" scripts
else
    echo "lint: NOT CHECKED: shell scripts (no shellcheck here)"
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'lint: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "lint: ok"
