#!/usr/bin/env bash
# Makes the images' root file systems: static programs, built by cargo on this machine, and names for their users. Prints
# the folder that holds them as ARCHITECTURE/TARGET. No container engine and no registry of images is asked.
#
#   deploy/images/roots.sh [TARGET…]     (default: clustermesh-apiserver node-agent)
#
# PROFILE         of cargo: release (default) or dev
# ARCHITECTURES   e.g. "amd64 arm64" (default: this machine's). Another one is compiled for by its gcc (Debian's package
#                 gcc-aarch64-linux-gnu or gcc-x86-64-linux-gnu) and rustup's target
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly PROFILE=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-$PWD/target}
roots=$target/images/$PROFILE

say() { echo "images: $*" >&2; }

own_architecture() {
    case $(uname -m) in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) say "images are built on amd64 and arm64, not on $(uname -m)"; return 1 ;;
    esac
}

triple_of() {
    case $1 in
        amd64) echo x86_64-unknown-linux-gnu ;;
        arm64) echo aarch64-unknown-linux-gnu ;;
        *) say "images are built for amd64 and arm64, not for $1"; return 1 ;;
    esac
}

# The image's own program first.
programs_of() {
    case $1 in
        # With the command line, which `clustermesh --context` runs in the pod.
        clustermesh-apiserver | node-agent) echo "$1" clustermesh ;;
        lab) echo lab ;;
        *) say "$1 is none of the images clustermesh-apiserver, node-agent and lab"; return 2 ;;
    esac
}

package_of() { if [ "$1" = lab ]; then echo mesh-e2e; else echo "$1"; fi; }

# Only the last crate of each program is told to be static: the C library is chosen when a program is linked. So this
# shares with an ordinary build what is compiled there with the same features.
build() { # architecture program
    local triple flags=(--quiet --locked --profile "$PROFILE" --package "$(package_of "$2")" --bin "$2")
    triple=$(triple_of "$1")
    if [ "$1" != "$own" ]; then
        flags+=(--target "$triple")
        cross "${triple//-/_}" "${triple/unknown-/}-gcc"
    fi
    cargo rustc "${flags[@]}" -- -C target-feature=+crt-static -C strip=symbols
}

# Not for this machine's own: a linker that is named is another build to cargo.
cross() { # triple-as-in-variables compiler
    export "CARGO_TARGET_${1^^}_LINKER=$2" "CC_$1=$2"
}

built() { # architecture program
    local folder=$PROFILE triple
    [ "$PROFILE" != dev ] || folder=debug
    triple=$(triple_of "$1")
    if [ "$1" = "$own" ]; then echo "$target/$folder/$2"; else echo "$target/$triple/$folder/$2"; fi
}

assemble() { # architecture target
    local root=$roots/$1/$2 program
    rm -rf "$root"
    mkdir -p "$root/etc"
    install -m 644 deploy/images/etc/* "$root/etc/"
    for program in $(programs_of "$2"); do
        install -m 755 "$(built "$1" "$program")" "$root/"
    done
}

own=$(own_architecture)
mkdir -p "$roots"
# One at a time: the next one may need the same programs, and takes the same folders away.
exec 9>"$roots/.lock"
flock 9
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(clustermesh-apiserver node-agent)
for architecture in ${ARCHITECTURES:-$own}; do
    declare -A programs=()
    for image in "${targets[@]}"; do
        for program in $(programs_of "$image"); do
            programs[$program]=1
        done
    done
    for program in "${!programs[@]}"; do
        build "$architecture" "$program" >&2
    done
    for image in "${targets[@]}"; do
        assemble "$architecture" "$image"
    done
done
echo "$roots"
