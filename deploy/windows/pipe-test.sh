#!/usr/bin/env bash
# Builds the Windows leaf and tries its pipe under Wine against a gateway on this machine. Debian 12; installs what is missing
# where it runs as root.
#
#   deploy/windows/pipe-test.sh [debug|release]      default debug
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${1:-debug}
deploy/windows/build.sh "$profile"

if ! command -v wine >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo "$0: Wine is missing; as root: apt-get install wine wine64" >&2
        exit 1
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends wine wine64 >/dev/null
fi

# A prefix of its own: it costs ten seconds once, and nothing else is in it.
export WINEPREFIX=${DAEMONEYE_WINEPREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/daemoneye-ci/wine}
export WINEDEBUG=-all
mkdir -p "$WINEPREFIX"
wine wineboot -i >/dev/null 2>&1

target=${CARGO_TARGET_DIR:-$PWD/target/windows}
export DAEMONEYE_TEST_WINDOWS=$target/x86_64-pc-windows-gnu/$profile/wine
env -u CARGO_TARGET_DIR cargo test -p daemoneye-tests --test suite -- --ignored --nocapture --test-threads 1 windows::
