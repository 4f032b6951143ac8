#!/usr/bin/env bash
# Docker for the clusters: the machine's, where a daemon answers; else one of our own (Debian's package docker.io), in
# namespaces of its own (network, mounts, processes), out of which no way leads, with folders of its own. Its end is that
# of its first process: the kernel ends what is left and takes mounts and links away. As root.
#
#   e2e/kind/engine.sh run COMMAND…    runs it where docker answers; starts our own daemon if that is needed
#   e2e/kind/engine.sh stop            ends our own daemon and removes its folders
#
# KIND_STATE   the folder for its files (default: target/kind)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
mkdir -p "${KIND_STATE:-target/kind}"
state=$(cd "${KIND_STATE:-target/kind}" && pwd)/engine
# A socket's path has room for 107 characters.
readonly SOCKET=/run/clustermesh-kind/docker.sock CGROUP=clustermesh-kind

say() { echo "kind: $*" >&2; }

# The first process of the daemon's namespaces, while it lives and is ours.
init() {
    local pid
    pid=$(cat "$state/pid" 2>/dev/null) && grep -qz "^$here/engine-init.sh\$" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

inside() { # pid command…
    local pid=$1
    shift
    # Entering mounts begins at their root.
    # shellcheck disable=SC2016 # the inner shell's variables
    nsenter --target "$pid" --net --mount --pid env "DOCKER_HOST=unix://$SOCKET" KIND_ENGINE=own \
        sh -c 'cd "$1" && shift && exec "$@"' sh "$PWD" "$@"
}

# To the scheduler all containers together are one group, which on a busy machine gets no more than a single process does.
prefer() {
    local folder=/sys/fs/cgroup/cpu/$CGROUP
    [ -d "${folder%/*}" ] || return 0
    mkdir -p "$folder"
    echo 65536 >"$folder/cpu.shares"
}

start() {
    local unshared
    command -v dockerd >/dev/null || {
        say "no docker daemon answers, and there is no dockerd to start: setup/deps.sh kind"
        return 1
    }
    mkdir -p "$state/data"
    prefer
    setsid unshare --net --mount --pid --fork --kill-child=KILL --propagation private \
        "$here/engine-init.sh" "$state/data" "$SOCKET" "$CGROUP" >"$state/log" 2>&1 </dev/null &
    unshared=$!
    for _ in $(seq 150); do
        pgrep --parent "$unshared" >"$state/pid" || true
        ! init >/dev/null || ! inside "$(init)" docker info >/dev/null 2>&1 || return 0
        [ -e "/proc/$unshared" ] || break
        sleep 0.2
    done
    say "our own dockerd does not answer; its log ends with"
    tail -n 20 "$state/log" >&2
    stop
    return 1
}

# The folders of containers that have ended go only when the last process has left them.
remove_cgroups() {
    local folder left=
    for _ in $(seq 50); do
        left=
        for folder in /sys/fs/cgroup{,/*}/"$CGROUP"; do
            [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || left=$folder
        done
        [ -n "$left" ] || return 0
        sleep 0.1
    done
    say "cannot be removed: $left"
    return 1
}

stop() {
    local pid
    if pid=$(init); then
        kill -KILL "$pid"
        while [ -e "/proc/$pid" ]; do sleep 0.1; done
    fi
    remove_cgroups
    rm -rf --one-file-system "$state" "${SOCKET%/*}"
    rmdir --ignore-fail-on-non-empty /run/docker 2>/dev/null || true
}

run() {
    local pid
    if ! pid=$(init); then
        if docker info >/dev/null 2>&1; then
            exec "$@"
        fi
        [ "$(id -u)" = 0 ] || {
            say "no docker daemon answers; to start one of our own, be root"
            exit 1
        }
        say "no docker daemon answers: starting one of our own, in a network without a way out"
        start
        pid=$(init)
    fi
    inside "$pid" "$@"
}

case ${1:-} in
    run) shift && run "$@" ;;
    stop) stop ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
