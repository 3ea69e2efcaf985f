#!/bin/sh
# After the files of a package are gone. The user stays, because files may be left that belong to it.
set -e
case ${1:-} in remove | purge | 0) ;; *) exit 0 ;; esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl reset-failed piped.socket piped.service piped-keeper.socket piped-keeper.service 2>/dev/null || true
fi
rm -rf /run/piped /run/piped-keeper
