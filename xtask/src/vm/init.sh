#!/bin/busybox sh
# First process of the guest: mounts the host's root read-only below a layer in memory, which has all that the
# guest writes. Ends by executing tests.sh.

b=/bin/busybox
fail() {
    echo "init: $*"
    exec $b poweroff -f
}

$b mkdir /proc /host /top /new
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in /modules/*; do
    $b insmod "$module" || fail "no $module"
done

$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host || fail "no root of the host"
$b mount -t tmpfs -o size=80% top /top
$b mkdir /top/upper /top/work
$b mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work root /new || fail "no overlay"

cd /new || fail "no root"
$b mkdir -p proc sys dev run
$b mount -t proc proc proc
$b mount -t sysfs sys sys
$b mount -t cgroup2 cgroup sys/fs/cgroup
$b mount -t bpf bpf sys/fs/bpf
$b mount -t devtmpfs dev dev
$b mkdir -p dev/pts dev/shm
$b mount -t devpts devpts dev/pts
$b mount -t tmpfs shm dev/shm
$b mount -t tmpfs run run
$b cp -r /vm run/vm

# The kernel loads modules that a test needs, as on any system.
version=$($b uname -r)
$b mkdir -p "lib/modules/$version"
. /vm/environment
$b mount -o bind "/new$MODULES" "lib/modules/$version" || fail "no modules"
$b cp $b run/vm/busybox
$b ln -s busybox run/vm/modprobe
echo /run/vm/modprobe >/proc/sys/kernel/modprobe

exec $b switch_root /new /run/vm/busybox sh /run/vm/tests.sh
