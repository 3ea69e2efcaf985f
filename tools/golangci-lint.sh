#!/bin/sh
# Runs golangci-lint at the one pinned version, which is built into .tmp/bin on first use: its many dependencies stay out of go.mod.
set -eu
cd "$(dirname "$0")/.."

version=v2.15.0
program=$PWD/.tmp/bin/golangci-lint-$version

if ! [ -x "$program" ]; then
	echo "building golangci-lint $version (a minute or two, once)" >&2
	mkdir -p .tmp/bin
	build=$(mktemp -d .tmp/golangci-lint.XXXXXX)
	trap 'rm -rf "$build"' EXIT
	GOBIN=$PWD/$build CGO_ENABLED=0 go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
	mv "$build/golangci-lint" "$program"
	rm -rf "$build"
	trap - EXIT
fi

exec "$program" "$@"
