# What the trials share. Each runs in namespaces of its own (mounts, network, processes), which end with it.
set -eu
clean=$1 # a root with some of Debian's packages
dist=$2  # the folder of packages

mount --make-rprivate /
work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
ended() {
    status=$?
    if [ "$status" != 0 ]; then
        printf '%s\n' "$0 failed: $what. What the daemon wrote last:" >&2
        [ ! -e "$work/log" ] || tail -n 20 "$work/log" >&2
    fi
    umount -R -l "$work"
    rmdir "$work"
}
trap ended EXIT

# step TEXT: what is tried from here on.
step() {
    what=$1
    printf '  %s\n' "$1"
}

# has TEXT WANTED: fails unless WANTED is in TEXT.
has() {
    case "$1" in
    *"$2"*) ;;
    *)
        printf '"%s" is not in:\n%s\n' "$2" "$1" >&2
        exit 1
        ;;
    esac
}

# until_done COMMAND: waits until it succeeds, for 20 s at most.
until_done() {
    tries=200
    until "$@" >"$work/said" 2>&1; do
        tries=$((tries - 1))
        if [ $tries = 0 ]; then
            cat "$work/said" >&2
            exit 1
        fi
        sleep 0.1
    done
}

# kernel ROOT: mounts there what the kernel gives.
kernel() {
    mkdir -p "$1/proc" "$1/sys" "$1/dev"
    mount -t proc proc "$1/proc"
    mount -t sysfs sysfs "$1/sys"
    mount -t bpf bpf "$1/sys/fs/bpf"
    mount --rbind /dev "$1/dev"
}

# no_pins ROOT: fails if a daemon has left anything on its BPF file system, where the kernel has two files of its own.
no_pins() { [ -z "$(ls "$1/sys/fs/bpf" | grep -v '^\(maps\|progs\).debug$')" ]; }

# A copy of the clean root, for the clients as well.
mkdir "$work/upper" "$work/over" "$work/debian"
mount -t overlay overlay -o "lowerdir=$clean,upperdir=$work/upper,workdir=$work/over" "$work/debian"
kernel "$work/debian"
debian() { chroot "$work/debian" "$@"; }
debian ip link set lo up
