#!/bin/sh
# Fails when gen/ is not exactly what the contract generates. It generates beside the tree: gen/ itself stays as it is.
set -eu
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/buf.sh generate -o "$fresh"
if ! diff -r "$fresh/gen" gen; then
	echo "gen/ is not what proto/ generates: run 'make generate' and commit the result" >&2
	exit 1
fi
echo "gen/ is what proto/ generates"
