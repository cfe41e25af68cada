#!/bin/sh
# Makes the identities of a mesh for development: a CA, and a folder for each node and its edge.
#
#   certs/dev-identities.sh --out DIR NAME=HOST:PORT [NAME=HOST:PORT ...]
#
# It calls `trishula init` (TRISHULA=/path/to/trishula names another binary), and refuses to write into this
# repository: a key that is committed once is known for ever.
set -eu

usage() {
    echo "usage: $0 --out DIR NAME=HOST:PORT [NAME=HOST:PORT ...]" >&2
    exit 2
}

repository=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
out=
[ "$#" -ge 3 ] || usage
[ "$1" = --out ] || usage
out=$2
shift 2
for node in "$@"; do
    case $node in
        *=*:*) ;;
        *) echo "$0: '$node' is not NAME=HOST:PORT" >&2; usage ;;
    esac
done

# The folder as it really is, links followed, also where its last parts do not exist yet.
case $out in
    /*) ;;
    *) out=$PWD/$out ;;
esac
case /$out/ in
    */../*) echo "$0: write --out without '..'" >&2; exit 2 ;;
esac
there=$out
rest=
while [ ! -d "$there" ]; do
    rest=/$(basename -- "$there")$rest
    there=$(dirname -- "$there")
done
real=$(CDPATH='' cd -- "$there" && pwd -P)$rest
case $real/ in
    "$repository"/*)
        echo "$0: $real is inside the repository ($repository); choose a folder outside it, such as /tmp/mesh" >&2
        exit 1
        ;;
esac

trishula=${TRISHULA:-}
for built in "$repository/target/debug/trishula" "$repository/target/release/trishula"; do
    [ -n "$trishula" ] || [ ! -x "$built" ] || trishula=$built
done
if [ -z "$trishula" ]; then
    echo "$0: no trishula was built yet; run: cargo build (or set TRISHULA to one)" >&2
    exit 1
fi

umask 077
exec "$trishula" init --out "$real" "$@"
