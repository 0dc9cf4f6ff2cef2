#!/bin/sh
# After the files of a package were removed. dpkg says `remove` or `purge`, rpm that there are 0 versions.
set -e
case "$1" in remove | purge | 0) ;; *) exit 0 ;; esac
# Kept by systemd between two daemons; empty after `stop`.
[ ! -d /run/reuseport-lb ] || rmdir --ignore-fail-on-non-empty /run/reuseport-lb
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
