#!/bin/bash
# Proves that nothing is lost, doubled or reordered, and prints what it did. EXACT=short ends within 50 s, EXACT=long (the default) takes
# half an hour or more.
set -euo pipefail
cd "$(dirname "$0")/.."

export EXACT=${EXACT:-long}
case $EXACT in
short) sequences=250 limit=5m race=() ;;
long) sequences=25000 limit=100m race=(-race) ;;
*)
	echo "EXACT=$EXACT: want short or long" >&2
	exit 2
	;;
esac

# The rows of tools/chaos.sh, in which the daemon is killed.
chaos='^Test(D[0-9]|S[0-9])'

# What the tests print besides their names.
lines() {
	grep -Ev '^[[:space:]]*(=== |--- PASS|PASS$|ok |$)' || true
}

echo "== every crash point: simulated kernel, failpoints, random kills, and wrong moves that must be caught"
go test -count 1 -timeout "$limit" -v -run 'WithFailpoints|NothingIsLost|WrongOrder|Recover' ./pipe | lines
echo "== 4 x $sequences sequences of actions against a model of a pipe, with kills"
go test -count 1 -timeout "$limit" -v -run PipeBehaves ./pipe -rapid.checks="$sequences" | lines
echo "== cuts, kills, networks and fights, with the whole daemon"
go test "${race[@]}" -count 1 -timeout "$limit" -v -skip "$chaos" ./test/exact | lines
