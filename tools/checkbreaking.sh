#!/bin/sh
# Compares the contract with the last landed one: with where this branch left origin/main, or, on what has landed already (and
# where there is no origin/main), with the commit before. The first commit of all, and a clone without history, have nothing to
# compare with, and the output says so.
set -eu
cd "$(dirname "$0")/.."

head=$(git rev-parse --verify --quiet HEAD) || head=
base=
if [ -n "$head" ] && git rev-parse --verify --quiet origin/main >/dev/null; then
	base=$(git merge-base HEAD origin/main) || base=
fi
if [ -z "$base" ] || [ "$base" = "$head" ]; then
	base=$(git rev-parse --verify --quiet 'HEAD~1') || base=
fi
if [ -z "$base" ] || ! git cat-file -e "$base:proto" 2>/dev/null; then
	echo "buf breaking: no landed contract to compare with"
	exit 0
fi

against=$(mktemp -d)
trap 'rm -rf "$against"' EXIT
git archive "$base" buf.yaml proto | tar -x -C "$against"
echo "buf breaking: against $(git log -1 --format='%h %s' "$base")"
tools/buf.sh breaking --against "$against"
