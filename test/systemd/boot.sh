#!/bin/bash
# Boots this machine's own systemd, as process 1 of new namespaces, runs a program in it and powers off: boot.sh DIRECTORY PROGRAM [ARG…]
#
# What the program sees as / is a copy on write of this machine's, so that nothing outside changes; DIRECTORY is /opt/piped-test in it. Output and
# exit status are those of the program. Needs root, a cgroup v2 mount, and no network.
set -euo pipefail

directory=$(readlink -f "$1")
shift
init=/lib/systemd/systemd
[ -x "$init" ] || {
	echo "boot.sh: there is no $init" >&2
	exit 127
}

groups=/sys/fs/cgroup
[ -e "$groups/cgroup.procs" ] && [ -e "$groups/cgroup.controllers" ] || groups=/sys/fs/cgroup/unified
groups=$groups/piped-test.$$
stage=$(mktemp -d)

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
	[ ! -e "$groups/cgroup.kill" ] || echo 1 >"$groups/cgroup.kill"
	wait || true
	umount --lazy "$stage/root" "$stage" 2>/dev/null || true
	rmdir "$stage" 2>/dev/null || true
	[ ! -d "$groups" ] || find "$groups" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
trap clean_up EXIT

mount -t tmpfs -o mode=0755 tmpfs "$stage"
mkdir "$stage/changes" "$stage/work" "$stage/root"
mount -t overlay -o "lowerdir=/,upperdir=$stage/changes,workdir=$stage/work" overlay "$stage/root"
mkdir -p "$stage/root/opt/piped-test"
cp -a "$directory/." "$stage/root/opt/piped-test/"

# The program is a service, so that it is started when the system is up.
printf '%q ' "$@" >"$stage/root/opt/piped-test/command"
cat >"$stage/root/etc/systemd/system/piped-test.service" <<'UNIT'
[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
WorkingDirectory=/opt/piped-test
StandardOutput=file:/opt/piped-test/output
StandardError=inherit
ExecStart=/bin/bash -c '. ./command; echo $? >status'
ExecStopPost=/bin/systemctl --force poweroff
# Whoever waits for it may be gone.
TimeoutStartSec=30min
UNIT
: >"$stage/root/opt/piped-test/output"
# Nothing of this machine's own comes up beside it.
for unit in systemd-modules-load.service systemd-sysctl.service systemd-udevd.service systemd-resolved.service; do
	ln -sfn /dev/null "$stage/root/etc/systemd/system/$unit"
done
rm -rf "$stage/root/var/log/journal"

mkdir "$groups"
# What is single-quoted runs in the new namespaces, with the variables that are set at the end.
# shellcheck disable=SC2016
inside='
	set -e
	mount --make-rprivate /
	mount -t proc proc "$ROOT/proc"
	mount -t sysfs sysfs "$ROOT/sys"
	mount -t tmpfs -o mode=0755 tmpfs "$ROOT/run"
	mount -t tmpfs -o mode=0755 tmpfs "$ROOT/dev"
	for device in null zero full random urandom tty; do
		: >"$ROOT/dev/$device"
		mount --bind "/dev/$device" "$ROOT/dev/$device"
	done
	mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
	mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$ROOT/dev/pts"
	ln -s pts/ptmx "$ROOT/dev/ptmx"
	mount -t tmpfs tmpfs "$ROOT/dev/shm"
	echo 1 >"$OWN/cgroup.procs"
	exec unshare --cgroup bash -c "$THEN"
'
# shellcheck disable=SC2016
then='
	set -e
	mount -t cgroup2 cgroup2 "$ROOT/sys/fs/cgroup"
	cd "$ROOT"
	mkdir .before
	pivot_root . .before
	umount --lazy /.before
	exec env -i container=piped-test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$INIT" --unit=piped-test.service \
		--show-status=false --log-target=journal </dev/null
'
ROOT=$stage/root OWN=$groups INIT=$init THEN=$then \
	unshare --mount --pid --fork --kill-child --uts --ipc --net -- bash -c "$inside" &
# In the background, because only then a signal to this script is looked at before the system has ended.
trap 'exit 143' TERM
trap 'exit 130' INT
wait $! || true

cat "$stage/changes/opt/piped-test/output"
exit "$(cat "$stage/changes/opt/piped-test/status" 2>/dev/null || echo 125)"
