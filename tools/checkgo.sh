#!/bin/sh
# Ends with a clear text when there is no Go, or one older than go.mod asks for. Every target that compiles runs this first, so
# that nobody has to read the compiler's complaints about a language that it does not know yet.
set -eu
cd "$(dirname "$0")/.."

needed=$(sed -n 's/^go \([0-9][0-9.]*\).*/\1/p' go.mod)

if ! command -v go >/dev/null 2>&1; then
	echo "piped needs Go $needed or newer, and there is no 'go' in PATH ($PATH)." >&2
	echo "Install it from https://go.dev/dl/ and put its bin directory in PATH (often /usr/local/go/bin)." >&2
	exit 1
fi

# A Go from 1.21 on fetches the version that go.mod asks for, and then says so here; one that may not, or cannot, answers with an error.
said=$(go version 2>&1) || said=$(GOTOOLCHAIN=local go version 2>&1) || true
found=$(printf '%s\n' "$said" | sed -n 's/.*go\([0-9][0-9.]*\).*/\1/p' | head -n 1)
if [ -z "$found" ]; then
	echo "piped needs Go $needed or newer, and 'go version' ($(command -v go)) did not name a version: $said" >&2
	exit 1
fi

oldest=$(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1)
if [ "$oldest" != "$needed" ]; then
	echo "piped needs Go $needed or newer; found Go $found at $(command -v go)." >&2
	echo "Install a newer one from https://go.dev/dl/ and put it first in PATH." >&2
	exit 1
fi
