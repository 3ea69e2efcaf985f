#!/bin/sh
# What piped-keeper.service runs when its main process is gone (ExecStopPost=). A stop that was asked for ends every process of the unit, also
# one that left its session and its parent, and returns when they are gone. After a crash everything stays as it is, for the keeper that systemd
# starts next.
case ${SERVICE_RESULT:-} in
success | timeout) ;;
*) exit 0 ;;
esac
# This runs in a group of its own below that of the unit.
group=$(sed -n 's/^0:://p' /proc/self/cgroup)
group=${group%/.control}
case $group in
*/piped-keeper.service) ;;
*) exit 0 ;; # never that of anything else
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
