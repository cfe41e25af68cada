#!/usr/bin/env bash
# A mesh of three machines on this one: three nodes and three edges as real processes on loopback.
#
#   deploy/demo.sh           builds, starts, shows, and stays up until Ctrl-C
#   deploy/demo.sh --once    the same, then ends: exit code 0 if both round trips worked, else 1
#
# Everything it makes lies in one temporary folder, removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

once=false
for argument in "$@"; do
    case "$argument" in
        --once) once=true ;;
        -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "demo.sh: unknown argument $argument; usage: deploy/demo.sh [--once]" >&2; exit 2 ;;
    esac
done
command -v cargo >/dev/null || { echo "demo.sh: cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

machines=(dc agni rushabdev)
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { echo "demo.sh: $*" >&2; exit 1; }

# --- build -----------------------------------------------------------------------------------------------
say "Building (the first time takes a few minutes, later ones a moment) ..."
began=$SECONDS
cargo build --locked --release --workspace --bins
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
trishula="$target/release/trishula" edge="$target/release/trishula-edge"
echo "built in $((SECONDS - began)) s"

# --- start -----------------------------------------------------------------------------------------------
top=$(mktemp -d "${TMPDIR:-/tmp}/trishula-demo.XXXXXX")
folder="$top/mesh"
pids=()
clean_up() {
    trap - EXIT
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$top"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Thirty ports in a row that nobody uses: `init` gives each machine ten.
free_base() {
    local base port
    for base in $(seq 21000 100 29900); do
        for port in $(seq "$base" $((base + 29))); do
            if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        echo "$base"; return
    done
    return 1
}
base=$(free_base) || fail "no thirty free ports in a row between 21000 and 30000"

say "Making identities below $folder (ports from $base on)"
"$trishula" init --loopback --base-port "$base" --out "$folder" >"$top/init.log"

start() { # name, program, arguments: in the background, with a log of its own
    local name=$1; shift
    "$@" >"$folder/$name.log" 2>&1 &
    pids+=($!)
    echo "  $name: pid $!"
}
say "Starting three nodes and three edges"
for machine in "${machines[@]}"; do
    start "$machine" "$trishula" run --config "$folder/$machine/node.toml"
done
for machine in "${machines[@]}"; do
    start "$machine-edge" "$edge" run --config "$folder/$machine/edge.toml"
done

at() { # machine, command …
    local machine=$1; shift
    local command=$1; shift
    "$trishula" "$command" --config "$folder/$machine/node.toml" "$@"
}
whole() { # every node sees three nodes, all reachable, and an edge of its own
    local machine status
    for machine in "${machines[@]}"; do
        status=$(at "$machine" status --json 2>/dev/null) || return 1
        python3 - "$status" <<'PYTHON' || return 1
import json, sys
status = json.loads(sys.argv[1])
edges = [link for link in status["links"] if link["role"] == "edge"]
sys.exit(0 if len(status["nodes"]) == 3 and status["whole"] and edges else 1)
PYTHON
    done
}
began=$SECONDS
until whole; do
    for pid in "${pids[@]}"; do
        kill -0 "$pid" 2>/dev/null || { tail -n 5 "$folder"/*.log >&2; fail "a process has ended; its log is above"; }
    done
    [ $((SECONDS - began)) -lt 60 ] || { tail -n 5 "$folder"/*.log >&2; fail "the mesh is not whole after 60 s"; }
    sleep 0.2
done
echo "the mesh is whole"

# --- two round trips -------------------------------------------------------------------------------------
start agni-agent "$trishula" listen --config "$folder/agni/node.toml" --as agni --answer '{"from":"agni","ok":true}'
start rushabdev-agent "$trishula" listen --config "$folder/rushabdev/node.toml" --as rushabdev --answer '{"from":"rushabdev","ok":true}'
for agent in agni rushabdev; do
    began=$SECONDS
    until at dc agents --json 2>/dev/null | grep -q "trishula/$agent\""; do
        [ $((SECONDS - began)) -lt 30 ] || fail "agent $agent did not register"
        sleep 0.1
    done
done

say "dc sends a COMMAND to agni and to rushabdev"
for agent in agni rushabdev; do
    at dc request "$agent" '{"do":"hello"}' --timeout 10s || fail "no RESULT from $agent"
done

say "trishula status (at dc)"
at dc status

if $once; then
    echo; echo "both round trips worked"
    exit 0
fi

# --- stay ------------------------------------------------------------------------------------------------
token=$(at dc token issue visitor --secret-file "$folder/dc/secrets/trishula.secret")
edge_port=$((base + 12))
cat <<HELP

The mesh is up. Try, in another terminal:

  # a plain WebSocket client (pip install websockets), through agni's edge; its token is good for an hour:
  cat > /tmp/hello.py <<'PYTHON'
import asyncio, json, ssl, websockets
async def main():
    tls = ssl.create_default_context(cafile="$folder/agni/edge-identity/ca.pem")
    url = "wss://localhost:$edge_port/?token=$token"
    async with websockets.connect(url, ssl=tls) as ws:
        await ws.send(json.dumps({"type": "COMMAND", "to": "rushabdev", "payload": {"do": "hello"}}))
        print(await ws.recv())
asyncio.run(main())
PYTHON
  python3 /tmp/hello.py

  # the command line:
  $trishula request rushabdev '{"do":"hello"}' --config $folder/dc/node.toml
  $trishula status --config $folder/dc/node.toml
  $trishula ping agni --config $folder/dc/node.toml

  # kill a node, and see the others go on:
  kill -9 ${pids[2]}    # rushabdev
  $trishula status --config $folder/dc/node.toml

  # start it again, in a terminal of its own; what was sent to it meanwhile is there (Ctrl-C there ends it):
  $trishula run --config $folder/rushabdev/node.toml

Logs: $folder/*.log      Ctrl-C ends everything and removes the folder.
HELP
wait
