#!/bin/sh
# Builds for every system that is promised, keeping nothing: pipectl and the Go client for six, the daemon for Linux.
set -eu
cd "$(dirname "$0")/.."

build() {
	system=$1
	machine=$2
	shift 2
	echo "GOOS=$system GOARCH=$machine go build $*"
	CGO_ENABLED=0 GOOS=$system GOARCH=$machine go build -o /dev/null "$@"
}

for machine in amd64 arm64; do
	build linux "$machine" ./cmd/piped
	for system in linux darwin windows; do
		build "$system" "$machine" ./cmd/pipectl
		build "$system" "$machine" ./client/...
	done
done
