#!/bin/bash
# Process 1 of a lab kernel: sets up what every command expects, then runs the requests it finds (see uml.py).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
# Temporary files and sockets must not lie on hostfs; /tmp itself stays the host's, since a clone may lie there.
ln -sfn /proc/self/fd /dev/fd    # bash: <( )
mkdir -p /run/tmp /run/lock /run/netns
export TMPDIR=/run/tmp
ip link set lo up
# hostfs keeps what is written until writeback (30 s by default); the other side wants to read it at once.
echo 5 >/proc/sys/vm/dirty_writeback_centisecs
echo 1 >/proc/sys/vm/dirty_expire_centisecs

run() {
    setsid --wait bash "$1.run" <"$1.in" >"$1.out" 2>&1
    echo $? >"$1.ended"
    sync "$1.out"
    mv "$1.ended" "$1.status"
}

cd "$linkseal_lab/requests" || busybox poweroff -f
mkfifo /run/tick
exec 9<>/run/tick
shopt -s nullglob
: >../booted
while [ ! -e poweroff ]; do
    for request in *.sh; do
        mv "$request" "${request%.sh}.run" 2>/dev/null || continue    # withdrawn
        run "$PWD/${request%.sh}" &
    done
    read -r -t 0.03 -u 9    # a sleep without a process; it also reaps orphans
done
sync
busybox poweroff -f
