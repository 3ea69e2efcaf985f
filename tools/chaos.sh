#!/bin/bash
# Kills the daemon and its keeper in every way, and proves that nothing is lost, doubled or reordered. CHAOS=short ends within 50 s,
# CHAOS=full (the default) takes some minutes, CHAOS=long an hour.
set -euo pipefail
cd "$(dirname "$0")/.."

export CHAOS=${CHAOS:-full}
case $CHAOS in
short) limit=5m ;;
full) limit=30m ;;
long) limit=120m ;;
*)
	echo "CHAOS=$CHAOS: want short, full or long" >&2
	exit 2
	;;
esac

# What the tests print besides their names.
lines() {
	grep -Ev '^[[:space:]]*(=== |--- PASS|PASS$|ok |$)' || true
}

echo "== the daemon and its keeper are killed: at every failpoint, at random, in all ways, together, and by builds that are wrong on purpose"
go test -race -count 1 -timeout "$limit" -v -run '^Test(D[0-9]|S[0-9])' ./test/exact | lines
if [ "$CHAOS" != short ]; then
	echo "== children that end anywhere, a kernel that refuses things, many starts"
	go test -race -count 1 -timeout "$limit" -v ./test/children | lines
	echo "== a really booted systemd"
	go test -count 1 -timeout "$limit" -v ./test/systemd | lines
fi
