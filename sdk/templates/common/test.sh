@RUN@/bin/sh
# Serves @NAME@.so with a graftd of its own, asks it, and drains it. GRAFTD=PATH: of another graftd.
set -eu
cd "$(dirname "$0")"
graftd=${GRAFTD:-$(pkg-config --variable=graftd graft)}
[ -x "$graftd" ] || { echo "test.sh: graftd is not at '$graftd': install it, or say GRAFTD=PATH" >&2; exit 1; }
command -v curl >/dev/null || { echo "test.sh: curl is missing" >&2; exit 1; }

work=$(mktemp -d)
mkdir -m 700 "$work/plugins" "$work/stage"
cp @NAME@.so "$work/plugins/"
GRAFT_STAGE_DIR=$work/stage GRAFT_STATE_DIR=$work/state "$graftd" -c graft.json --plugins "$work/plugins" \
    --listen "unix:$work/http" --ops "" --control "$work/control" 2>"$work/log" &
server=$!
failed=0

end() {
    status=$?
    trap - EXIT
    kill "$server" 2>/dev/null || :
    wait "$server" || { echo "not ok - graftd ended with $?"; status=1; }
    [ $status = 0 ] || cat "$work/log" >&2
    rm -rf "$work"
    exit $status
}
trap end EXIT

ask() { curl -sS --max-time 10 --unix-socket "$work/http" "$@"; }

expect() { # NAME WANTED FOUND
    if [ "$2" = "$3" ]; then
        echo "ok - $1"
    else
        echo "not ok - $1: expected '$2', found '$3'"
        failed=1
    fi
}

tries=0
until ask -o /dev/null http://localhost/ 2>/dev/null; do
    tries=$((tries + 1))
    if [ $tries -ge 200 ] || ! kill -0 "$server" 2>/dev/null; then
        echo "not ok - graftd serves"
        exit 1
    fi
    sleep 0.05
done

