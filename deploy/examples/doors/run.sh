#!/bin/sh
# The platform as programs reach it: see README.md. Everything listens on loopback, and is gone afterwards.
#
#   MI        the mi to use (default: the debug build of this repository, or that on the PATH)
#   PACKAGES  where the package of MCP is, or goes to (default: target/doors)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
mi=${MI:-$root/target/debug/mi}
[ -x "$mi" ] || mi=$(command -v mi) || { echo "no mi: build it, or name it with MI=" >&2; exit 1; }
packages=${PACKAGES:-$root/target/doors}
for tool in curl node npm; do
    command -v "$tool" > /dev/null || { echo "this example wants $tool" >&2; exit 1; }
done

client=$root/sdk/typescript
[ -d "$client/node_modules" ] || npm ci --silent --no-fund --no-audit --prefix "$client"
npm run --silent build --prefix "$client"
[ -d "$packages/node_modules" ] ||
    npm install --silent --no-fund --no-audit --prefix "$packages" @modelcontextprotocol/sdk@^1

work=$(mktemp -d)
finish() {
    kill "$platform" 2> /dev/null && wait "$platform" 2> /dev/null || true
    rm -rf "$work"
}
"$mi" up --data-dir "$work/data" --config-dir "$work/config" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
    --ready-file "$work/ready.json" > "$work/log" 2>&1 &
platform=$!
trap finish EXIT
trap 'exit 1' INT TERM
until [ -e "$work/ready.json" ]; do
    kill -0 "$platform" 2> /dev/null || { tail -n 20 "$work/log" >&2; exit 1; }
    sleep 0.1
done
ready() { node -p 'JSON.parse(require("fs").readFileSync(process.argv[1]))[process.argv[2]]' "$work/ready.json" "$1"; }
MI_ENDPOINT=$(ready endpoint) MI_API_KEY=$(ready api_key)
export MI_ENDPOINT MI_API_KEY

# post PATH BODY: a request of REST.
post() {
    curl --silent --show-error --fail-with-body -H "authorization: Bearer $MI_API_KEY" -H 'content-type: application/json' \
        -d "$2" "$MI_ENDPOINT$1"
}

echo "--- curl"
office=$(post /v1/offices '{"name": "Curl"}' | node -p 'JSON.parse(require("fs").readFileSync(0)).id')
post "/v1/offices/$office/agents" '{"name": "analyst", "model_tier": "sonnet"}'
echo

echo "--- A2A"
post "/a2a/$office/analyst/message:send" '{"message": {"messageId": "1", "role": "ROLE_USER",
    "parts": [{"text": "echo hello from $(hostname)"}], "metadata": {"mi.kind": "command"}}}'
echo

echo "--- TypeScript"
cp "$here/colony.mjs" "$work" && ln -s "$client" "$work/mi-sdk"
node "$work/colony.mjs"

echo "--- MCP"
cp "$here/assistant.mjs" "$packages"
node "$packages/assistant.mjs"
