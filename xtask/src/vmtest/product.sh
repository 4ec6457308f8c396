#!/bin/sh
# The shipped binary on a machine it has never seen: an image, containers with limits, freezing and figures of cgroup v2,
# an app of two services whose daemon is killed, a death for want of memory, and nothing left.
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
# value KEY: of the JSON that comes in, the first.
value() { tr -d ' \n' | sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p"; }
coppice exec one sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done'
coppice stats --no-stream --json one > /stats
[ "$(value memory_limit_bytes < /stats)" = 67108864 ] || fail "stats: $(cat /stats)"
for figure in memory_bytes memory_peak_bytes cpu_usec pids; do
  [ "$(value $figure < /stats)" -gt 0 ] || fail "stats say no $figure: $(cat /stats)"
done
for pressure in memory_pressure cpu_pressure io_pressure; do
  [ "$(value $pressure < /stats)" -ge 0 ] || fail "stats say no $pressure: $(cat /stats)"
done
coppice stats --no-stream one
[ "$(coppice exec one busybox cat /proc/self/uid_map | wc -l)" = 1 ] || fail "exec has no id map of its own"
coppice kill one
wait_for "the cgroup to go" test ! -d "$place"
coppice rm one
# Devices: the usual ones are there, and a disk of the host's stays shut though anybody may read its node.
mknod /disk b $((0x$(stat -c %t /dev/vda))) $((0x$(stat -c %T /dev/vda))); chmod 666 /disk
head -c 1 /disk > /dev/null || fail "the disk cannot be read outside either"
said=$(coppice run --rm -v /disk:/disk busybox sh -c 'busybox head -c 1 /dev/zero | busybox wc -c; busybox head -c 1 /disk || echo shut' 2>/dev/null)
[ "$(echo $said)" = '1 shut' ] || fail "devices: $said"

mkdir -p /shop /eater
cat > /shop/coppice.toml <<'END'
app = "shop"

[service.db]
image = "busybox"
command = ["busybox", "httpd", "-f", "-p", "5432", "-h", "/data"]
volumes = ["data:/data"]
stop_signal = "KILL"
health = { type = "tcp", port = 5432 }

[service.web]
image = "busybox"
command = ["sh", "-c", "busybox mkdir -p /www; echo web > /www/index.html; exec busybox httpd -f -p 80 -h /www"]
ports = ["8080:80"]
depends_on = { db = "healthy" }
stop_signal = "KILL"
limits = { memory = "64m" }
health = { type = "http", port = 80 }
END
cd /shop
coppice up --timeout 3m > /said 2>&1 || fail "up: $(cat /said)"
answers() { [ "$(printf 'GET / HTTP/1.0\r\n\r\n' | timeout 30 nc 127.0.0.1 8080 | tail -n 1)" = web ]; }
pids() { coppice status --json | tr -d ' ' | tr ',{}' '\n\n\n' | sed -n 's/^"pid":\([0-9][0-9]*\)$/\1/p' | sort; }
answers || fail "the app is up and does not answer"
daemon() {
  for process in /proc/[0-9]*; do
    if tr '\0' ' ' < "$process/cmdline" 2>/dev/null | grep -q 'node run --apart'; then echo "${process#/proc/}"; fi
  done
}
before=$(pids)
[ "$(echo "$before" | wc -l)" = 2 ] || fail "two services run as: $before"
daemon=$(daemon)
kill -9 "$daemon"
answers || fail "the app does not answer without its daemon"
coppice node start
[ "$(daemon)" != "$daemon" ] || fail "the daemon lives"
wait_for "the app to be as it was" sh -c 'coppice status --json | tr -d " \n" | grep -q "\"state\":\"ready\",\"reason\":null"'
[ "$(pids)" = "$before" ] || fail "ran as $before, taken up as $(pids)"
answers || fail "the app does not answer the new daemon"
web=$(coppice inspect web-1 --json | value pid)
kill -9 "$web"
wait_for "the restart" sh -c 'coppice status | grep -q "signal 9\|SIGKILL"'
wait_for "the app to answer again" answers
coppice status

cat > /eater/coppice.toml <<'END'
app = "eater"

[worker.eats]
image = "busybox"
restart = "never"
limits = { memory = "16m" }
command = ["sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"]
END
cd /eater
code=0; said=$(coppice up --timeout 3m 2>&1) || code=$?
[ $code = 1 ] || fail "an app that runs out of memory came up with $code: $said"
coppice status | tee /said
grep -q 'out of memory' /said || fail "the status does not say why"
coppice down
cd /shop && coppice down --volumes
coppice node stop --all
[ -z "$(find /sys/fs/cgroup -type d -name '*coppice*' -mindepth 2)" ] || fail "left: $(find /sys/fs/cgroup -type d -name '*coppice*')"
if grep -q " $COPPICE_ROOT" /proc/mounts; then fail "mounts are left"; fi
echo "test result: ok. 1 passed; 0 failed"
