#!/bin/sh
# The .rpm, by Debian's rpm: what it depends on has other names there, so that only its form is looked at.
. "$(dirname "$0")/common.sh"

what=prepare
files() { debian find / -xdev -path /var/lib/rpm -prune -o -path /usr/lib/sysimage -prune -o -path /tmp -prune -o -print | sort; }
cp "$dist"/reuseport-lb-*.rpm "$work/debian/tmp/package.rpm"
debian rpm --initdb
# Folders that every system with rpm has.
mkdir -p "$work/debian/usr/share/licenses" "$work/debian/usr/share/zsh/site-functions"
files >"$work/before"

step "rpm --install"
has "$(debian rpm --query --package --requires /tmp/package.rpm)" "libc.so.6(GLIBC_2"
debian rpm --checksig /tmp/package.rpm >"$work/said"
debian rpm --install --force-debian --nodeps /tmp/package.rpm
has "$(debian rpm --query --info reuseport-lb)" "MIT OR Apache-2.0"
has "$(debian rpm --query --configfiles reuseport-lb)" /etc/reuseport-lb.toml
debian rpm --verify --nodeps reuseport-lb

step "the demo"
debian reuseport-lb run --config /etc/reuseport-lb.toml >"$work/log" 2>&1 &
until_done debian reuseport-lb status --check
has "$(debian curl --silent http://127.0.0.1:8080/)" "worker=demo/"

step "rpm --erase"
debian rpm --erase reuseport-lb
files >"$work/after"
diff "$work/before" "$work/after" >&2
no_pins "$work/debian"
