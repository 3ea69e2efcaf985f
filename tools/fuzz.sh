#!/bin/bash
# Runs every native fuzz target of the module, one after another, for FUZZTIME each (go test takes one target at a time).
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${1:-10s}
ran=0
while read -r directory; do
	# The list is taken from the test binary: it knows which files this system builds.
	targets=$(go test -list '^Fuzz' "$directory" | grep '^Fuzz' || true)
	for target in $targets; do
		echo "== $directory $target ($fuzztime)"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -fuzzminimizetime 5x "$directory" </dev/null
		ran=$((ran + 1))
	done
done < <(grep -rl --include='*_test.go' --exclude-dir=.tmp --exclude-dir=node_modules '^func Fuzz' . | xargs -r -n 1 dirname | sort -u)

if [ "$ran" -eq 0 ]; then
	echo "no fuzz target was found" >&2
	exit 1
fi
echo "$ran fuzz targets ran for $fuzztime each"
