#!/bin/sh
# Before the files of a package are removed. dpkg says `remove`, rpm that there will be 0 versions; at an upgrade all goes on.
set -e
case "$1" in remove | 0) ;; *) exit 0 ;; esac
# In order, with its workers.
[ ! -S /run/reuseport-lb/control.sock ] || /usr/bin/reuseport-lb stop || true
[ -d /run/systemd/system ] || exit 0
systemctl disable --now reuseport-lb.service || true
