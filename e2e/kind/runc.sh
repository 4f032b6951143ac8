#!/bin/sh
# runc for our own Docker. Debian 12's dockerd asks for every capability that it knows when a container is privileged: for
# some that a machine may not give, whereupon runc refuses; and for none that is newer than its list, so that the nodes'
# pods could not load eBPF.
set -eu

bundle='' process='' previous=''
for word; do
    case $previous in
        --bundle | -b) bundle=$word ;;
        --process | -p) process=$word ;;
    esac
    case $word in
        --bundle=*) bundle=${word#*=} ;;
        --process=*) process=${word#*=} ;;
    esac
    previous=$word
done

# CAP_SYS_RESOURCE is number 24.
bounding=$(sed -n 's/^CapBnd:\t*//p' /proc/self/status)
refused='[]'
[ $((0x$bounding >> 24 & 1)) = 1 ] || refused='["CAP_SYS_RESOURCE"]'

adapt() { # file where
    jq -c --argjson refused "$refused" "$2"' |= walk(
        if type == "array" and index("CAP_SYS_ADMIN")
        then . + ["CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"] - $refused | unique
        else . end)' "$1" >"$1.adapted"
    cat "$1.adapted" >"$1"
    rm "$1.adapted"
}

case " $* " in
    *" create "* | *" run "*) [ -z "$bundle" ] || adapt "$bundle/config.json" .process.capabilities ;;
    *" exec "*) [ -z "$process" ] || adapt "$process" .capabilities ;;
esac
exec runc "$@"
