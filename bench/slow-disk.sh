#!/bin/sh
# nats-server as on a slower disk: each fsync takes FSYNC_MORE microseconds longer (default: 1000). Needs strace(1).
#
#   CAUSEWAY_NATS_SERVER=$PWD/bench/slow-disk.sh target/release/causeway-bench append --durability synced
set -eu
server=$("$(dirname "$0")/../scripts/nats.sh" --path)
# The tracer detaches, so that who starts this has nats-server itself as its child; only what is named here stops for it.
exec strace -D -f --seccomp-bpf -qq -o /dev/null -e trace=fsync,fdatasync \
    -e "inject=fsync,fdatasync:delay_exit=${FSYNC_MORE:-1000}" "$server" "$@"
