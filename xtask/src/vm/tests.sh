# First process of the guest after init.sh: runs the tests of the list, one after the other,
# and writes their outcomes to the second serial line. The shell is busybox's, so that it is
# the same everywhere; programs are the host's.

cd / || exit
busybox=/run/vm/busybox
$busybox stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1
. /run/vm/environment
ip link set lo up

# A zero byte every two seconds as a sign of life; it is no part of a line.
while printf '\0' && $busybox sleep 2; do :; done &

# A cgroup for all processes of a test, which are killed before the next.
all=/sys/fs/cgroup/test
mkdir $all

echo "@ready $(uname -r)"
tab=$(printf '\t')
while IFS=$tab read -r name folder program test; do
    echo "@begin $name"
    $busybox sh -c 'echo 0 >"$1"; cd "$2"; shift 2; exec "$@"' sh $all/cgroup.procs "$folder" \
        $busybox timeout -s KILL "$LIMIT" "$program" --exact --nocapture "$test" </dev/null >/run/vm/output 2>&1
    status=$?
    echo 1 >$all/cgroup.kill
    if [ $status = 0 ] && $busybox grep -q '^test result: ok. 1 passed' /run/vm/output; then
        status=ok
        # Rows of the fault matrix.
        $busybox grep '^@row ' /run/vm/output
    else
        $busybox cat /run/vm/output
        echo
        [ $status = 0 ] && status="did not run"
    fi
    echo "@end $name $status"
done </run/vm/list
echo "@done"
exec $busybox poweroff -f
