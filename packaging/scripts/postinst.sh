#!/bin/sh
# After the files of a package are in place: at an installation ("configure" for dpkg, 1 for rpm), and at an upgrade ("configure VERSION", 2). No
# session ends at an upgrade: the keeper becomes the new program with everything it holds, and a front that is started again is a pause.
set -e
upgrade=
case ${1:-} in
configure) upgrade=${2:-} ;;
[2-9]*) upgrade=$1 ;;
esac
if command -v systemd-sysusers >/dev/null; then systemd-sysusers piped.conf; fi
if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create piped.conf; fi
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if [ -z "$upgrade" ]; then
	systemctl enable --quiet piped-keeper.socket piped.socket piped.service
	systemctl start piped-keeper.socket piped.socket piped.service
	exit 0
fi
# The keeper first: a new keeper serves an old front, and the new front finds the new keeper. One that refuses the new program, because that cannot
# read what it has recorded, goes on as the old one, and its log says so. What was stopped stays stopped.
if systemctl --quiet is-active piped-keeper.service; then systemctl reload piped-keeper.service || true; fi
systemctl try-restart piped.service
