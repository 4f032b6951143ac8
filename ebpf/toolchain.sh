# Finds the toolchain that builds the eBPF object; sourced by build.sh and check.sh.
#
# Either Debian's (rustc-web, cargo-web, rust-web-src: compiler and sources of one version) or rustup's nightly
# with rust-src; and bpf-linker, built against an LLVM at least as new as the compiler's; and llvm-objcopy.
# Sets RUSTC_FOR_BPF, CARGO_FOR_BPF, RUST_SRC, LINKER, OBJCOPY and VERSIONS (one line each).

say_missing() {
    cat >&2 <<'TEXT'
How to get what builds the eBPF object (nothing else needs it):
  Debian 12:  apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src llvm-22-dev libpolly-22-dev clang-22
              LLVM_PREFIX=/usr/lib/llvm-22 PATH=/usr/lib/llvm-22/bin:$PATH \
                cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22
  elsewhere:  rustup toolchain install nightly --component rust-src
              cargo install bpf-linker          (built against an LLVM at least as new as nightly's)
              llvm-objcopy, from your distribution's LLVM
TEXT
}

first_executable() {
    for candidate in "$@"; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

has_rust_src() {
    [ -f "$1/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}

# Debian's compiler and its sources, else rustup's nightly.
find_rust() {
    if [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && has_rust_src "$(/usr/bin/rustc --print sysroot)"; then
        RUSTC_FOR_BPF=/usr/bin/rustc
        CARGO_FOR_BPF=/usr/bin/cargo
    elif RUSTC_FOR_BPF=$(rustup which rustc --toolchain nightly 2>/dev/null) \
        && has_rust_src "$("$RUSTC_FOR_BPF" --print sysroot)"; then
        CARGO_FOR_BPF=$(rustup which cargo --toolchain nightly)
    else
        return 1
    fi
    RUST_SRC=$("$RUSTC_FOR_BPF" --print sysroot)/lib/rustlib/src/rust
}

# Fails, having said what is missing, where the toolchain is incomplete.
find_toolchain() {
    missing=
    find_rust || missing="$missing a Rust compiler with its own sources (rustc-web and rust-web-src, or nightly with rust-src);"
    LINKER=$(first_executable bpf-linker "$HOME/.cargo/bin/bpf-linker") || missing="$missing bpf-linker;"
    OBJCOPY=$(first_executable llvm-objcopy-22 llvm-objcopy) || missing="$missing llvm-objcopy;"
    if [ -n "$missing" ]; then
        echo "ebpf: missing:$missing" >&2
        return 1
    fi
    VERSIONS="rustc $("$RUSTC_FOR_BPF" --version | cut -d' ' -f2-)
llvm $("$RUSTC_FOR_BPF" --version --verbose | sed -n 's/^LLVM version: //p')
bpf-linker $("$LINKER" --version | awk '{print $NF}')
llvm-objcopy $("$OBJCOPY" --version | sed -n 's/.*version \([0-9.]*\).*/\1/p' | head -n 1)"
}

# The digest of everything of ours that the object is made of.
source_digest() {
    (
        cd "$EBPF"
        find abi/Cargo.toml abi/src programs/Cargo.toml programs/Cargo.lock programs/src -type f -print0 \
            | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
    )
}

# Builds the object into the file $1, byte-identical wherever the tree lies. The third version of the instruction set
# (Linux 5.1) computes and jumps by 32 bits, which saves the programs a tenth of their instructions.
build_object() {
    ROOT=$(cd "$EBPF/.." && pwd)
    CARGO_DIR=${CARGO_HOME:-$HOME/.cargo}
    REMAP="--remap-path-prefix=$ROOT=/mesh --remap-path-prefix=$CARGO_DIR=/cargo --remap-path-prefix=$RUST_SRC=/rust"
    TARGET=${2:-$EBPF/programs/target}
    (
        cd "$EBPF/programs"
        RUSTC_BOOTSTRAP=1 RUSTC="$RUSTC_FOR_BPF" CARGO_TARGET_DIR="$TARGET" CARGO_INCREMENTAL=0 \
            RUSTFLAGS="-C linker=$LINKER -C target-cpu=v3 -C link-arg=--btf -C debuginfo=2 --cfg=bpf_target_arch=\"x86_64\" $REMAP" \
            "$CARGO_FOR_BPF" build --quiet --release --locked -Z build-std=core --target bpfel-unknown-none
    )
    "$OBJCOPY" --strip-debug "$TARGET/bpfel-unknown-none/release/mesh" "$1"
    plain_symbols "$1" > "$TARGET/symbols"
    "$OBJCOPY" --redefine-syms="$TARGET/symbols" "$1"
}

# The symbols of the object $1 whose names hold a crate's hash, each with a name without: cargo makes the hash from
# the folder in which the tree lies. Nor are there places in the name (B…_), which move with the hash's length.
plain_symbols() {
    LC_ALL=C grep -aoE '_R[0-9A-Za-z_]+' "$1" | LC_ALL=C sort -u \
        | sed -E 'h; s/Cs[0-9A-Za-z]+_/C/g; s/B[0-9A-Za-z]{0,2}_/B_/g; G; s/(.*)\n(.*)/\2 \1/'
}
