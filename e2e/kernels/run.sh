#!/usr/bin/env bash
# Boots a kernel in qemu, runs a shell command there as root, prints what it says and exits with its status.
#
#   e2e/kernels/run.sh [-f FILE[:PLACE]]… KERNEL COMMAND
#
#   KERNEL       a name of the file `matrix`, or the path of a kernel image for x86-64
#   COMMAND      one string for the guest's sh
#   -f FILE      puts a file, or a folder, into the guest, at PLACE (default: /bin/<its name>), and with a program the
#                libraries that it is linked with; debug information stays behind
#
#   e2e/kernels/run.sh -f target/debug/node-agent 6.1 'node-agent --version; uname -r'
#   e2e/kernels/run.sh -f "$(command -v setpriv)" 6.1 'setpriv --bounding-set=-all id'
#
# The guest has no network device and no disk: everything is in memory and gone with it. In it are busybox, iproute2's ip,
# a cgroup v2 root of its own at /sys/fs/cgroup (as systemd leaves it: mode 0555), bpffs at /sys/fs/bpf, tmpfs at /tmp and
# /run, and lo is up. It runs under software emulation (tcg), about ten times slower than the machine.
#
# GUEST_SECONDS   after so many the guest is ended, with status 124 (default: 300)
# GUEST_MB        memory (default: 2048)
# GUEST_KERNEL_ARGS   more for the kernel's command line
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

files=()
while getopts f: option; do
    case $option in
        f) files+=("$OPTARG") ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 2 ] || usage
kernel=$1
[ -f "$kernel" ] || kernel=$("$here/kernel.sh" "$kernel")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root

# Copies a file or folder to a place in the guest, and the libraries of a program to where it looks for them.
put() {
    local file=$1 place=$root$2 library
    mkdir -p "$(dirname "$place")"
    cp -rL "$file" "$place"
    [ -f "$file" ] && [ -x "$file" ] || return 0
    strip --strip-debug "$place" 2>/dev/null || true
    while read -r library; do
        [ -e "$root$library" ] || { mkdir -p "$(dirname "$root$library")" && cp -L "$library" "$root$library"; }
    done < <(ldd "$file" 2>/dev/null | grep -oE '/[^ ]+' || true)
}

mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,etc,root}
busybox=$(command -v busybox) || { echo "kernels: there is no busybox here: apt-get install busybox-static" >&2; exit 1; }
put "$busybox" /bin/busybox
for file in "${files[@]}"; do
    place=${file#*:}
    [ "$place" != "$file" ] || place=/bin/$(basename "$file")
    put "${file%%:*}" "$place"
done
put "$(PATH=$PATH:/usr/sbin:/sbin command -v ip)" /bin/ip
echo "root:x:0:0:root:/root:/bin/sh" >"$root/etc/passwd"
printf '%s\n' "$2" >"$root/command"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin HOME=/root TMPDIR=/tmp
for applet in $(busybox --list); do
    [ -e "/bin/$applet" ] || busybox ln -s busybox "/bin/$applet"
done
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
stty -F /dev/ttyS1 raw
sh /command </dev/null >/dev/ttyS1 2>&1
echo "guest: exit $?" >/dev/ttyS0
reboot -f
INIT
chmod 755 "$root/init"
(cd "$root" && find . -print0 | cpio --quiet --null -o -H newc) >"$scratch/initramfs"

status=0
timeout "${GUEST_SECONDS:-300}" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m "${GUEST_MB:-2048}" -nic none -display none \
    -no-reboot -monitor none -kernel "$kernel" -initrd "$scratch/initramfs" \
    -append "console=ttyS0 quiet panic=-1 ${GUEST_KERNEL_ARGS:-}" \
    -serial "file:$scratch/console" -chardev stdio,id=said,signal=off -serial chardev:said </dev/null || status=$?
if [ "$status" != 0 ]; then
    echo "kernels: the guest was ended: status $status" >&2
    exit "$status"
fi
if ! status=$(grep -aoE 'guest: exit [0-9]+' "$scratch/console"); then
    echo "kernels: the guest stopped before the command had ended; its console:" >&2
    tail -n 40 "$scratch/console" >&2
    exit 125
fi
exit "${status##* }"
