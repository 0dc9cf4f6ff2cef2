#!/bin/sh
# The static binary in a root that has nothing else.
. "$(dirname "$0")/common.sh"

what=prepare
alone=$work/alone
mkdir "$alone"
tar --extract --gzip --file "$dist"/reuseport-lb-*-"$(uname -m)"-linux-static.tar.gz --directory "$work"
cp "$work"/reuseport-lb-*-static/usr/bin/reuseport-lb "$alone/"
kernel "$alone"
alone() { chroot "$alone" /reuseport-lb "$@"; }

step "doctor"
alone doctor >"$work/said" || { cat "$work/said" >&2; exit 1; }

step "the demo"
alone run >"$work/log" 2>&1 &
until_done alone status --check
has "$(debian curl --silent http://127.0.0.1:8080/)" "worker=demo/"
has "$(alone status)" "service demo: 4 of 4 workers ready"

step "exec"
alone exec demo --name 9 -- /reuseport-lb --version >"$work/said"
has "$(cat "$work/said")" "reuseport-lb "
alone events demo --once --text >"$work/said"
has "$(cat "$work/said")" demo/9

step "stop"
alone stop
wait
no_pins "$alone"

step "a user of /etc/passwd, and one whom nobody knows"
mkdir "$alone/etc"
echo "web:x:4711:4711::/:/none" >"$alone/etc/passwd"
echo "web:x:4711:" >"$alone/etc/group"
service() { printf '[[service]]\nname = "web"\nlisten = ["tcp://127.0.0.1:3000"]\nworkers = 1\nuser = "%s"\n' "$1" >"$alone/web.toml"; }
service web
alone run --config /web.toml >"$work/log" 2>&1 &
until_done alone status --check
pid=$(debian curl --silent http://127.0.0.1:3000/ | sed -n 's/^pid=//p')
has "$(grep '^Uid:' "$alone/proc/$pid/status")" 4711
alone stop
wait
service stranger
if alone run --config /web.toml >"$work/said" 2>&1; then exit 1; fi
has "$(cat "$work/said")" stranger
