#!/bin/sh
# Instructions per request of graftd `hello`, nginx or the bare loop, by callgrind: two runs, one of
# N and one of 2N requests over one connection; (I(2N) - I(N)) / N leaves start and end out. These
# are instructions of user code only, but exact: they tell what a change did where times are too
# noisy. Prints the figure and the functions that it consists of.
#
# usage: callgrind.sh graftd|nginx|bare [N]     GRAFTD, GRAFTLOAD, BARE_EPOLL name the programs
set -eu
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "$0")" && pwd)
what=${1:-graftd}
count=${2:-4000}
work=$(mktemp -d "${TMPDIR:-/tmp}/graft-callgrind-XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

tool() { PYTHONPATH=$here python3 -c "import common; print(common.$1())"; }
port=$(PYTHONPATH=$here python3 -c "import common; print(common.free_port())")
graftload=$(tool find_graftload)
mkdir -p "$work/plugins" && mkdir -m 700 -p "$work/stage"

case $what in
graftd)
    path=/hello
    PYTHONPATH=$here python3 -c "import common, sys; common.compile_plugin(*sys.argv[1:])" \
        "$here/../plugins/hello/hello.c" "$work/plugins/hello.so" -g
    cat >"$work/graft.json" <<END
{"listen": ["127.0.0.1:$port"], "plugin_dir": "$work/plugins", "stage_dir": "$work/stage", "ops": "",
 "control": "$work/control.sock", "workers": 1, "supervise": false, "log": {"level": "warn", "format": "json"}}
END
    set -- "$(tool find_graftd)" -c "$work/graft.json"
    ;;
nginx)
    path=/
    cat >"$work/nginx.conf" <<END
daemon off; master_process off; pid $work/nginx.pid; error_log $work/error.log;
events { worker_connections 1000; }
http { access_log off; keepalive_requests 1000000000;
       server { listen 127.0.0.1:$port; location / { default_type text/plain; return 200 "hello world\n"; } } }
END
    set -- "$(command -v nginx || echo /usr/sbin/nginx)" -c "$work/nginx.conf"
    ;;
bare)
    path=/
    set -- "$(tool find_bare)" "$port"
    ;;
*)
    echo "usage: callgrind.sh graftd|nginx|bare [N]" >&2
    exit 2
    ;;
esac

# run OUT REQUESTS: serves so many requests under callgrind, prints the instructions of all threads
run() {
    out=$1 requests=$2
    shift 2
    valgrind --tool=callgrind --callgrind-out-file="$out" "$@" 2>"$out.log" >&2 &
    server=$!
    tries=0
    until "$graftload" --connections 1 --requests 100 --kind "path=$path" "127.0.0.1:$port" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 150 ] || ! kill -0 "$server" 2>/dev/null; then
            cat "$out.log" >&2
            echo "the server does not serve" >&2
            exit 1
        fi
        sleep 0.2
    done
    "$graftload" --connections 1 --seconds 300 --requests "$requests" --kind "path=$path" \
        "127.0.0.1:$port" >"$out.load"
    kill -TERM "$server"
    wait "$server" || true
    server=
    sed -n 's/^\(summary\|totals\): *\([0-9]*\).*/\2/p' "$out" | head -n 1
}

once=$(run "$work/once" "$count" "$@")
twice=$(run "$work/twice" $((2 * count)) "$@")
echo "$what: $(((twice - once) / count)) instructions per request (I($((2 * count))) = $twice, I($count) = $once)"
callgrind_annotate --threshold=95 "$work/twice" | sed -n '/file:function/,$p' | head -n 45
