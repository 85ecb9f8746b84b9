#!/usr/bin/env bash
# Everything that a change must pass. The last line says how many tests passed and failed; the exit code is 0 if none failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

failed=0
step() { # what, command...
    printf '\n== %s\n' "$1" >&2
    shift
    if ! "$@"; then
        printf '== FAILED: %s\n' "$*" >&2
        failed=$((failed + 1))
        return 1
    fi
}

finish() { # passed
    printf '%s passed, %s failed\n' "$1" "$failed"
    [[ "$failed" -eq 0 ]]
    exit
}

step "lint" make --no-print-directory lint
step "nats-server" scripts/nats.sh || finish 0
step "test tools" scripts/test_tools.sh || finish 0
CAUSEWAY_NATS_SERVER=$(scripts/nats.sh --path)
export CAUSEWAY_NATS_SERVER
# All targets at once: the tests then use what is built here, the binary included.
step "build" cargo build --locked --workspace --all-targets || finish 0

printf '\n== tests\n' >&2
results=$(mktemp)
trap 'rm -f "$results"' EXIT
cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$results"
status=${PIPESTATUS[0]}
read -r passed broken < <(awk '/^test result: / { for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i; if ($(i+1) ~ /^failed/) f += $i } }
    END { print p + 0, f + 0 }' "$results")
failed=$((failed + broken))
# Something that does not compile, or a test binary that died, has no result line.
if [[ "$status" -ne 0 && "$broken" -eq 0 ]]; then failed=$((failed + 1)); fi
finish "$passed"
