#!/usr/bin/env bash
# Builds the images with docker, podman or buildah, whichever is there and works. No registry is asked: the programs are
# built by cargo on this machine (deploy/images/roots.sh), and nothing else is in an image.
#
#   deploy/images/build.sh [TARGET…]     (default: clustermesh-apiserver node-agent)
#
# REGISTRY    in front of the names, e.g. ghcr.io/OWNER; images are clustermesh/TARGET without it
# TAG         default: the version in Cargo.toml
# PLATFORMS   e.g. linux/amd64,linux/arm64; default: this machine's. Several can only be pushed
# PUSH=1      push instead of keeping the images in the engine
# PROFILE     of cargo (default: release)
set -euo pipefail

folder=$(cd "$(dirname "$0")" && pwd)
version() { sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$folder/../../Cargo.toml"; }

readonly TAG=${TAG:-$(version)} REGISTRY=${REGISTRY:-} PLATFORMS=${PLATFORMS:-} PUSH=${PUSH:-}
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(clustermesh-apiserver node-agent)

# An engine counts only if it works: a docker command without its daemon builds nothing.
reasons=()
works() {
    local engine=$1 said
    command -v "$engine" >/dev/null || { reasons+=("$engine: not installed"); return 1; }
    said=$("$engine" info 2>&1) || { reasons+=("$engine: $(tail -n 1 <<<"$said")"); return 1; }
}

# Docker's builder without the plugin buildx can do all but several platforms. It does not say which platform it is for.
choose_builder() {
    local engine
    for engine in ${ENGINE:-docker podman buildah}; do
        works "$engine" || continue
        if [ "$engine" != docker ]; then
            echo "$engine"
        elif docker buildx version >/dev/null 2>&1; then
            echo buildx
        elif [[ $PLATFORMS == *,* ]]; then
            reasons+=("docker: it works, but for several platforms the plugin buildx is missing (Debian's package: docker-buildx)")
            continue
        else
            echo classic
        fi
        return
    done
    {
        echo "images: no container engine works here, so no image can be built:"
        printf '  - %s\n' "${reasons[@]}"
        echo "images: install one of them. The Kubernetes lab (make test-kube) assembles its images without any."
    } >&2
    return 1
}

name_of() { echo "${REGISTRY:+$REGISTRY/}clustermesh/$1:$TAG"; }

architectures() {
    local platform
    for platform in ${PLATFORMS//,/ }; do
        printf '%s ' "${platform#linux/}"
    done
}

own_architecture() { case $(uname -m) in aarch64) echo arm64 ;; *) echo amd64 ;; esac; }

build() { # builder target roots
    local builder=$1 name arguments
    name=$(name_of "$2")
    arguments=(--file "$folder/Dockerfile" --target "$2" ${PLATFORMS:+--platform "$PLATFORMS"})
    echo "images: building $name with $builder"
    case $builder in
        buildx)
            docker buildx build "${arguments[@]}" --tag "$name" "$(if [ -n "$PUSH" ]; then echo --push; else echo --load; fi)" "$3"
            ;;
        classic)
            DOCKER_BUILDKIT=0 docker build --quiet --file "$folder/Dockerfile" --target "$2" --tag "$name" \
                --build-arg "TARGETARCH=$(one_architecture)" "$3"
            [ -z "$PUSH" ] || docker push "$name"
            ;;
        podman | buildah)
            "$builder" manifest rm "$name" >/dev/null 2>&1 || true
            "$builder" build "${arguments[@]}" "$(if [[ $PLATFORMS == *,* ]]; then echo --manifest; else echo --tag; fi)" "$name" "$3"
            [ -z "$PUSH" ] || push "$builder" "$name"
            ;;
    esac
}

one_architecture() { if [ -n "$PLATFORMS" ]; then echo "${PLATFORMS#linux/}"; else own_architecture; fi; }

# Engines other than docker collect the platforms in a manifest list of the image's name.
push() {
    local engine=$1 name=$2
    if [[ $PLATFORMS == *,* ]]; then
        "$engine" manifest push --all "$name" "docker://$name"
    else
        "$engine" push "$name"
    fi
}

main() {
    local builder target roots
    if [[ $PLATFORMS == *,* ]] && [ -z "$PUSH" ]; then
        echo "images: several platforms can only be pushed; set PUSH=1, or name one platform" >&2
        exit 2
    fi
    builder=$(choose_builder)
    roots=$(ARCHITECTURES=$(architectures) "$folder/roots.sh" "${targets[@]}")
    for target in "${targets[@]}"; do
        build "$builder" "$target" "$roots"
    done
    echo "images: $(for target in "${targets[@]}"; do printf '%s ' "$(name_of "$target")"; done)"
}

main
