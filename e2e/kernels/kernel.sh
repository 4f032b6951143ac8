#!/usr/bin/env bash
# Prints the path of a kernel's image, out of the cache or, the first time, out of its distribution's archive: the package
# is downloaded and unpacked there, nothing is installed.
#
#   e2e/kernels/kernel.sh NAME              NAME is one of the file `matrix`
#   e2e/kernels/kernel.sh NAME --present    only what is in the cache; exits with 1 where it isn't
#
# CLUSTERMESH_CACHE   where the cache is (default: ~/.cache/clustermesh)
# UBUNTU_ARCHIVE      the address of an archive of Ubuntu's packages; Debian's is the one that this machine's apt uses
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
name=${1:?the name of a kernel in $here/matrix}
cache=${CLUSTERMESH_CACHE:-$HOME/.cache/clustermesh}/kernels
folder=$cache/$name

fail() {
    echo "kernels: $*" >&2
    exit 1
}

if [ -e "$folder/vmlinuz" ]; then
    echo "$folder/vmlinuz"
    exit 0
fi
[ "${2:-}" != --present ] || exit 1
line=$(awk -v name="$name" '$1 == name' "$here/matrix")
[ -n "$line" ] || fail "$name is none of $(awk '!/^#/ { printf "%s ", $1 }' "$here/matrix")"
read -r _ _ origin suite pattern <<<"$line"
command -v apt-get >/dev/null || fail "$name comes from $origin's $suite, and there is no apt here to get it with"

# The address of an archive: `debian`, `debian-security` or `ubuntu`.
archive() {
    case $1 in
        debian*) apt-get indextargets --format '$(REPO_URI)' | awk -v end="/$1/?\$" '$0 ~ end { print; exit }' ;;
        ubuntu) echo "${UBUNTU_ARCHIVE:-}" ;;
    esac
}
archive=$(archive "$origin")
[ -n "$archive" ] || fail "$name comes from an archive of $origin, which this machine's apt has not: give UBUNTU_ARCHIVE=URL for ubuntu"
mkdir -p "$cache"
draft=$(mktemp -d "$cache/draft.XXXXXX")
trap 'rm -rf "$draft"' EXIT

# A program of apt's, which sees one suite of one archive and nothing of the machine's own settings.
with_suite() {
    local keyring=$1 archive=$2 suite=$3 state
    state=$draft/$suite
    shift 3
    if [ ! -d "$state" ]; then
        mkdir -p "$state/lists/partial" "$state/archives/partial"
        echo "deb [arch=amd64 signed-by=$keyring] $archive $suite main" >"$state/sources.list"
        with_suite "$keyring" "$archive" "$suite" apt-get -qq update >&2
    fi
    "$@" -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$state/lists" \
        -o Dir::Cache="$state" -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root
}

# Ubuntu's keys are a package of Debian's.
keyring() {
    local debian=/usr/share/keyrings/debian-archive-keyring.gpg
    case $origin in
        debian*) echo "$debian" ;;
        ubuntu)
            (cd "$draft" && with_suite "$debian" "$(archive debian)" trixie apt-get -qq download ubuntu-keyring) >&2
            dpkg -x "$draft"/ubuntu-keyring_*.deb "$draft/keys"
            echo "$draft/keys/usr/share/keyrings/ubuntu-archive-keyring.gpg"
            ;;
    esac
}

ring=$(keyring)
[ -e "$ring" ] || fail "$name: there are no keys at $ring to check its package with"
# What an archive lists may be gone from it already: then the next older one.
mapfile -t packages < <(with_suite "$ring" "$archive" "$suite" apt-cache search --names-only "$pattern" | cut -d' ' -f1 | sort -rV)
for package in "${packages[@]}"; do
    echo "kernels: downloading $package, once; it is kept in $folder" >&2
    (cd "$draft" && with_suite "$ring" "$archive" "$suite" apt-get -qq download "$package") >&2 || continue
    dpkg -x "$draft/$package"_*.deb "$draft/root"
    image=$(find "$draft/root" -name 'vmlinuz*' -type f | head -n 1)
    [ -n "$image" ] || continue
    mkdir -p "$folder"
    mv "$image" "$folder/vmlinuz"
    echo "$folder/vmlinuz"
    exit 0
done
fail "$name: $archive $suite gives no package $pattern"
