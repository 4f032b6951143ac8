#!/usr/bin/env bash
# Builds the images with docker (buildx), podman or buildah, whichever is there and works.
#
#   deploy/images/build.sh [TARGET…]     (default: clustermesh-apiserver node-agent)
#
# REGISTRY    in front of the names, e.g. ghcr.io/OWNER; images are clustermesh/TARGET without it
# TAG         default: the version in Cargo.toml
# PLATFORMS   e.g. linux/amd64,linux/arm64; default: this machine's. Several can only be pushed
# PUSH=1      push instead of keeping the images in the engine
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml"; }

readonly TAG=${TAG:-$(version)} REGISTRY=${REGISTRY:-} PLATFORMS=${PLATFORMS:-} PUSH=${PUSH:-}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(clustermesh-apiserver node-agent)

# An engine counts only if it works: a docker command without its daemon builds nothing.
reasons=()
works() {
    local engine=$1 said
    command -v "$engine" >/dev/null || { reasons+=("$engine: not installed"); return 1; }
    said=$("$engine" info 2>&1) || { reasons+=("$engine: $(tail -n 1 <<<"$said")"); return 1; }
    if [ "$engine" = docker ] && ! docker buildx version >/dev/null 2>&1; then
        reasons+=("docker: it works, but the plugin buildx is missing (Debian's package: docker-buildx)")
        return 1
    fi
}

choose_engine() {
    local engine
    for engine in ${ENGINE:-docker podman buildah}; do
        if works "$engine"; then
            echo "$engine"
            return
        fi
    done
    {
        echo "images: no container engine works here, so no image can be built:"
        printf '  - %s\n' "${reasons[@]}"
        echo "images: install one of them. The Kubernetes lab (make test-kube) assembles its images without any."
    } >&2
    return 1
}

name_of() { echo "${REGISTRY:+$REGISTRY/}clustermesh/$1:$TAG"; }

# Engines other than docker collect the platforms in a manifest list of the image's name.
build() {
    local engine=$1 target=$2 name arguments
    name=$(name_of "$target")
    arguments=(--file "$root/deploy/images/Dockerfile" --target "$target" ${PLATFORMS:+--platform "$PLATFORMS"})
    echo "images: building $name with $engine"
    case $engine in
        docker)
            docker buildx build "${arguments[@]}" --tag "$name" "$(if [ -n "$PUSH" ]; then echo --push; else echo --load; fi)" "$root"
            ;;
        podman | buildah)
            "$engine" manifest rm "$name" >/dev/null 2>&1 || true
            "$engine" build "${arguments[@]}" "$(if [[ $PLATFORMS == *,* ]]; then echo --manifest; else echo --tag; fi)" "$name" "$root"
            [ -z "$PUSH" ] || push "$engine" "$name"
            ;;
    esac
}

push() {
    local engine=$1 name=$2
    if [[ $PLATFORMS == *,* ]]; then
        "$engine" manifest push --all "$name" "docker://$name"
    else
        "$engine" push "$name"
    fi
}

main() {
    local engine target
    if [[ $PLATFORMS == *,* ]] && [ -z "$PUSH" ]; then
        echo "images: several platforms can only be pushed; set PUSH=1, or name one platform" >&2
        exit 2
    fi
    engine=$(choose_engine)
    for target in "${targets[@]}"; do
        build "$engine" "$target"
    done
    echo "images: $(for target in "${targets[@]}"; do printf '%s ' "$(name_of "$target")"; done)"
}

main
