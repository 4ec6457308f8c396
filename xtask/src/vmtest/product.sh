#!/bin/sh
# The shipped binary on a machine it has never seen: image, run, limits, pause, stats, and nothing left.
set -eu
export COPPICE_ROOT=/var/lib/coppice
fail() { echo "product: $*"; exit 1; }
# wait_for WHAT COMMAND…: until it succeeds, for at most thirty seconds.
wait_for() {
  what=$1; shift; tries=0
  until "$@"; do
    tries=$((tries + 1)); [ $tries -lt 150 ] || fail "waited for $what"
    sleep 0.2
  done
}

mkdir -p /image/bin /image/etc /image/tmp
cp /bin/busybox /image/bin/sh
cp /bin/busybox /image/bin/busybox
echo 'root:x:0:0:root:/:/bin/sh' > /image/etc/passwd
tar -cf /image.tar -C /image .
coppice image import /image.tar busybox

said=$(coppice run --rm busybox busybox echo hello) || fail "run ended with $?: $said"
[ "$said" = hello ] || fail "run said: $said"
code=0; coppice run --rm busybox sh -c 'exit 7' || code=$?
[ $code = 7 ] || fail "an exit of 7 came as $code"

coppice run -d --name one --memory 64m --pids 20 busybox busybox sleep 1000
group() { find /sys/fs/cgroup -type d -name "*$id*" | head -n 1; }
id=$(coppice inspect one --json | tr ',{' '\n\n' | sed -n 's/.*"id": *"\([0-9a-f]*\)".*/\1/p' | head -n 1)
wait_for "the cgroup of $id" test -d "$(group)"
place=$(group)
[ "$(cat "$place/memory.max")" = 67108864 ] || fail "memory.max is $(cat "$place/memory.max")"
[ "$(cat "$place/pids.max")" = 20 ] || fail "pids.max is $(cat "$place/pids.max")"
coppice pause one
grep -q 'frozen 1' "$place/cgroup.events" || fail "paused and not frozen"
coppice unpause one
grep -q 'frozen 0' "$place/cgroup.events" || fail "unpaused and frozen"
coppice stats --no-stream one
[ "$(coppice exec one busybox cat /proc/self/uid_map | wc -l)" = 1 ] || fail "exec has no id map of its own"
coppice kill one
wait_for "the cgroup to go" test ! -d "$place"
coppice rm one
coppice node stop --all
echo "test result: ok. 1 passed; 0 failed"
