#!/usr/bin/env bash
# How long a newcomer waits: a fresh clone of what is committed, an empty HOME, `make up`, the README's message, its answer.
#
#   bench/fresh.sh           with this machine's Rust toolchain and its cache of downloaded crates
#   bench/fresh.sh --cold    crates are downloaded, too (the toolchain still is this machine's)
#
# Prints one line a step, in seconds since the start. Leaves nothing behind.
set -euo pipefail

readonly LIMIT_SECONDS=1800
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mode=${1:-}
[[ -z "$mode" || "$mode" == --cold ]] || { echo "usage: bench/fresh.sh [--cold]" >&2; exit 2; }

work=$(mktemp -d "${TMPDIR:-/tmp}/causeway-fresh.XXXXXX")
group=
finish() {
    if [[ -n "$group" ]] && kill -TERM -- "-$group" 2>/dev/null; then
        for _ in {1..300}; do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.1; done
        kill -KILL -- "-$group" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

seconds() { awk -v start="$start" -v now="$EPOCHREALTIME" 'BEGIN { printf "%7.1f", now - start }'; }
said() { printf '%s s  %s\n' "$(seconds)" "$1"; }
broken() { echo "make up did not get that far:" >&2; tail -n 20 "$work/out" "$work/err" >&2; exit 1; }

# Waits until a line of the file "$1" matches "$2", as long as make runs.
await() {
    until grep -qE "$2" "$1" 2>/dev/null; do
        kill -0 "$group" 2>/dev/null || broken
        awk -v start="$start" -v now="$EPOCHREALTIME" -v limit="$LIMIT_SECONDS" 'BEGIN { exit !(now - start < limit) }' || broken
        sleep 0.05
    done
}

# rustup's cargo finds the toolchain in RUSTUP_HOME, and crates that were downloaded in CARGO_HOME.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
mkdir "$work/home"
if [[ "$mode" == --cold ]]; then
    mkdir "$work/cargo"
    # Where crates come from on this machine.
    for config in config.toml config; do [[ -f "$cargo_home/$config" ]] && cp "$cargo_home/$config" "$work/cargo/"; done
    cargo_home=$work/cargo
fi
environment=(HOME="$work/home" PATH="$PATH" CARGO_HOME="$cargo_home" RUSTUP_HOME="$rustup_home")
# How this machine reaches the network.
while IFS='=' read -r name _; do
    [[ "$name" =~ ^(PIP_|SSL_CERT_|.*_(proxy|PROXY)$) ]] && environment+=("$name=${!name}")
done < <(env)

echo "$(nproc) cores, load average $(cut -d' ' -f1-3 /proc/loadavg), $(git -C "$root" rev-parse --short HEAD), crates ${mode:+not }cached"
start=$EPOCHREALTIME
git clone --quiet "$root" "$work/causeway"
said "cloned"
cd "$work/causeway"
set -m
env -i "${environment[@]}" make up ARGS="--json --listen 127.0.0.1:0" >"$work/out" 2>"$work/err" </dev/null &
group=$!
set +m
await "$work/err" '^ *Compiling '
said "nats-server is there, compiling"
await "$work/err" '^ *Finished '
said "built ($(grep -c '^ *Compiling ' "$work/err") crates; binary $(stat -c %s target/debug/causeway | awk '{ printf "%.0f MB", $1 / 1e6 }'))"
await "$work/out" '"gateway"'
gateway=$(sed -n 's/.*"gateway":"\([^"]*\)".*/\1/p' "$work/out")
said "ready at $gateway"
curl --silent --show-error --fail --noproxy '*' "$gateway/events" -H 'content-type: application/json' \
    -d '{"type": "MessageReceived", "aggregate_id": "user_123", "data": {"content": "Hello"}}' >/dev/null
for _ in {1..600}; do
    answer=$(curl --silent --fail --noproxy '*' "$gateway/events?aggregate_id=user_123&type=MessageGenerated" || true)
    [[ "$answer" == *MessageGenerated* ]] && break
    sleep 0.02
done
[[ "$answer" == *MessageGenerated* ]] || broken
said "first answer"
du -sh target .causeway 2>/dev/null | awk '{ printf "           %s %s\n", $1, $2 }'
