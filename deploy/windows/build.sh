#!/usr/bin/env bash
# Builds the leaf for Windows on Debian 12: daemoneye-bridge.exe, and the example `publish.exe`, which speaks to its pipe.
#
#   deploy/windows/build.sh [debug|release]      default release
#
# Debian's own Rust has the source of the standard library with it, which a toolchain of rustup has not for this target
# unless it is installed; so nothing is downloaded but crates. What is missing is installed where this runs as root.
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${1:-release}
case $profile in
debug) flags=() ;;
release) flags=(--release) ;;
*)
    echo "$0: the profile is debug or release, not \`$profile\`" >&2
    exit 2
    ;;
esac

target=x86_64-pc-windows-gnu
packages=(rustc-web cargo-web rust-web-src gcc-mingw-w64-x86-64-posix)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "$0: missing packages; as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

export PATH="/usr/bin:$PATH"
unset RUSTUP_TOOLCHAIN RUSTC RUSTC_WRAPPER
version=$(rustc --version | cut -d' ' -f2)
# Where `-Zbuild-std` looks for the source, and where Debian keeps it.
source=$(rustc --print sysroot)/lib/rustlib/src/rust
if [ ! -e "$source/library" ]; then
    mkdir -p "$(dirname "$source")"
    ln -sfn "/usr/src/rustc-$version" "$source"
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/windows}
# The standard library is built along, which only a nightly compiler does unasked.
export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
cargo build -Zbuild-std=std,panic_abort --locked --target "$target" "${flags[@]}" \
    -p daemoneye-bridge --bin daemoneye-bridge --example publish

out=$CARGO_TARGET_DIR/$target/$profile
# Wine 8 has no bcryptprimitives.dll, from which Rust takes its random numbers. Every Windows has it: never ship this one.
mkdir -p "$out/wine"
printf '%s\n' \
    '#include <windows.h>' \
    'BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);' \
    '__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE into, SIZE_T length) { return SystemFunction036(into, (ULONG)length); }' \
    >"$out/wine/bcryptprimitives.c"
x86_64-w64-mingw32-gcc -shared -O2 -o "$out/wine/bcryptprimitives.dll" "$out/wine/bcryptprimitives.c" -ladvapi32
cp "$out/daemoneye-bridge.exe" "$out/examples/publish.exe" "$out/wine/"
echo "built $out/daemoneye-bridge.exe; to be run under Wine: $out/wine/"
