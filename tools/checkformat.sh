#!/bin/sh
# Fails when gofmt would change a file, and shows what. The gofmt is the one of the Go that builds.
set -eu
cd "$(dirname "$0")/.."

# gofmt says by its exit as well that there are differences, from some version on; what it prints says it in all of them.
failed=0
changes=$(find . \( -name .git -o -name .tmp -o -name node_modules \) -prune -o -name '*.go' -print0 |
	xargs -0 -r "$(go env GOROOT)/bin/gofmt" -d) || failed=1
if [ -n "$changes" ] || [ "$failed" -ne 0 ]; then
	printf '%s\n' "$changes"
	echo "gofmt would change these, or cannot read them: run gofmt -w on them" >&2
	exit 1
fi
