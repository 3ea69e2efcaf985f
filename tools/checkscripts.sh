#!/bin/sh
# Runs shellcheck over every shell script of the repository, whatever it is called: what counts is its first line.
set -eu
cd "$(dirname "$0")/.."

find . \( -name .git -o -name .tmp -o -name bin -o -name node_modules \) -prune -o -type f -print0 |
	xargs -0 grep -lZE -m 1 '^#!(/usr)?/bin/(env )?(ba)?sh' |
	xargs -0 -r shellcheck
