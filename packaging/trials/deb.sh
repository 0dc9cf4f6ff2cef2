#!/bin/sh
# The .deb on a clean Debian: installed, used, upgraded under load, removed without a trace.
. "$(dirname "$0")/common.sh"

# All files but those that dpkg keeps for itself.
files() { debian find / -xdev -path /var/lib/dpkg -prune -o -path /var/log -prune -o -path /tmp -prune -o -print | sort; }

what=prepare
files >"$work/before"
cp "$dist"/reuseport-lb_*.deb "$work/debian/tmp/"

step "dpkg --install"
debian sh -c 'dpkg --install /tmp/reuseport-lb_*.deb' >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
has "$(debian dpkg --status reuseport-lb)" "Status: install ok installed"
has "$(debian dpkg --status reuseport-lb)" " /etc/reuseport-lb.toml"
debian dpkg --verify reuseport-lb

step "units"
debian systemd-analyze verify /usr/lib/systemd/system/reuseport-lb.service

step "man pages"
has "$(debian man reuseport-lb)" "reuseport-lb-drain(1)"
has "$(debian man reuseport-lb-drain)" "Let a worker leave in order"
has "$(debian man reuseport-lb-drain)" EXAMPLES

step "the demo"
has "$(debian reuseport-lb check /etc/reuseport-lb.toml)" demo
debian reuseport-lb run --config /etc/reuseport-lb.toml >"$work/log" 2>&1 &
until_done debian reuseport-lb status --check
has "$(debian curl --silent http://127.0.0.1:8080/)" "worker=demo/"
has "$(debian reuseport-lb status)" "service demo: 4 of 4 workers ready"

step "doctor"
debian reuseport-lb doctor >"$work/said" || { cat "$work/said" >&2; exit 1; }

step "completion in bash, zsh and fish"
bash=$(debian bash -c '
    . /usr/share/bash-completion/completions/reuseport-lb
    COMP_WORDS=(reuseport-lb drain "") COMP_CWORD=2 COMP_TYPE=9
    _clap_complete_reuseport_lb reuseport-lb "" drain
    printf "%s\n" "${COMPREPLY[@]}"')
has "$bash" demo/3
zsh=$(debian zsh -f -c '
    fpath=(/usr/share/zsh/vendor-completions $fpath)
    compdef() { : }
    _describe() { print -l -- ${(P)argv[3]} }
    autoload -Uz _reuseport-lb
    words=(reuseport-lb restart "") CURRENT=3
    _reuseport-lb')
has "$zsh" demo/3
has "$(debian env HOME=/tmp fish --command 'complete --do-complete "reuseport-lb scale "')" demo
has "$(debian env HOME=/tmp fish --command 'complete --do-complete "reuseport-lb sta"')" status

step "an upgrade under load"
# What systemd would do; there is none here.
mkdir -p "$work/debian/run/systemd/system"
mv "$work/debian/usr/bin/systemctl" "$work/debian/tmp/systemctl"
cat >"$work/debian/usr/bin/systemctl" <<'STUB'
#!/bin/sh
echo "systemctl $*" >>/tmp/systemctl.log
[ "$1" = try-restart ] || exit 0
reuseport-lb stop --keep
reuseport-lb run --config /etc/reuseport-lb.toml >>/tmp/next.log 2>&1 &
STUB
chmod 755 "$work/debian/usr/bin/systemctl"
debian sh -c 'dpkg-deb --raw-extract /tmp/reuseport-lb_*.deb /tmp/next && sed -i "s/^Version: .*/&+next/" /tmp/next/DEBIAN/control
    dpkg-deb --build /tmp/next /tmp/next.deb' >"$work/said" 2>&1
# A new connection for each request; a line with the code of each answer, 000 if there was none.
load() {
    while [ ! -e "$work/enough" ]; do
        debian curl --silent --max-time 5 --header "Connection: close" --write-out '%{http_code}\n' --output /dev/null \
            'http://127.0.0.1:8080/?[1-100]' || :
    done
}
load >"$work/load" &
load=$!
until_done grep -q 200 "$work/load"
echo "# mine" >>"$work/debian/etc/reuseport-lb.toml"
old=$(debian head -n 1 /run/reuseport-lb/daemon.lock)
debian dpkg --install /tmp/next.deb >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
replaced() { debian reuseport-lb status --check && [ "$(debian head -n 1 /run/reuseport-lb/daemon.lock)" != "$old" ]; }
until_done replaced
before=$(grep -c 200 "$work/load")
more() { [ "$(grep -c 200 "$work/load")" -gt $((before + 500)) ]; }
until_done more
touch "$work/enough"
wait "$load"
if grep -v 200 "$work/load" >&2; then exit 1; fi
printf '    %s requests, 0 failed\n' "$(grep -c 200 "$work/load")"
has "$(debian tail -n 1 /etc/reuseport-lb.toml)" "# mine"

step "dpkg --purge"
debian dpkg --purge reuseport-lb >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
if debian curl --silent http://127.0.0.1:8080/ >"$work/said"; then
    printf 'there is still somebody at port 8080\n' >&2
    exit 1
fi
has "$(cat "$work/debian/tmp/systemctl.log")" "systemctl disable --now reuseport-lb.service"
rm -r "$work/debian/run/systemd"
files >"$work/after"
diff "$work/before" "$work/after" >&2
no_pins "$work/debian"
