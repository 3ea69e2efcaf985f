#!/bin/sh
# What piped-keeper.service runs when its main process is gone (ExecStopPost=). A stop that was asked for ends every process of the unit, also
# one that left its session and its parent, and returns when they are gone. After a crash everything stays as it is, for the keeper that systemd
# starts next.

# This runs in a group of its own below that of the unit.
group=$(sed -n 's/^0:://p' /proc/self/cgroup)
group=${group%/.control}
case $group in
*/piped-keeper.service) ;;
*) exit 0 ;; # never that of anything else
esac

# A group whose groups have controllers takes no process, and systemd puts the next keeper right into it. That keeper gives them the controllers
# again, and the front repeats the limits of its sessions. (DelegateSubgroup= would do too; systemd knows it from 254 on.)
make_room() {
	find "$1" -depth -name cgroup.subtree_control | while read -r file; do
		read -r controllers <"$file" || controllers=
		for controller in $controllers; do echo "-$controller" >"$file"; done
	done
}

case ${SERVICE_RESULT:-} in
success | timeout) ;;
*)
	for mount in /sys/fs/cgroup /sys/fs/cgroup/unified; do
		[ ! -e "$mount$group/cgroup.procs" ] || make_room "$mount$group"
	done
	exit 0
	;;
esac
for mount in /sys/fs/cgroup /sys/fs/cgroup/unified; do
	[ -e "$mount$group/cgroup.procs" ] || continue
	tries=0
	while pids=$(find "$mount$group" -name .control -prune -o -name cgroup.procs -exec cat {} +) && [ -n "$pids" ]; do
		# shellcheck disable=SC2086 # one word each
		kill -KILL $pids 2>/dev/null
		# Something that forks faster than this is killed as a whole, and this script with it.
		tries=$((tries + 1))
		if [ $tries -gt 100 ] && [ -e "$mount$group/cgroup.kill" ]; then echo 1 >"$mount$group/cgroup.kill"; fi
	done
done
