#!/bin/sh
# Runs buf as tools/buf.mod pins it. It has a module of its own because it asks for a newer protobuf than the generators may be built with.
set -eu
cd "$(dirname "$0")/.."
exec go tool -modfile=tools/buf.mod buf "$@"
