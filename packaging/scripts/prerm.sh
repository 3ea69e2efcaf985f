#!/bin/sh
# Before the files of a package go. At an upgrade nothing is stopped: $1 is "upgrade" for dpkg, and 1 for rpm.
set -e
case ${1:-} in remove | deconfigure | 0) ;; *) exit 0 ;; esac
[ -d /run/systemd/system ] || exit 0
# All at once, because piped would begin anew when its keeper alone is stopped. This ends all sessions, and every process in them.
systemctl disable --quiet piped.socket piped.service piped-keeper.socket || true
systemctl stop piped.socket piped.service piped-keeper.socket piped-keeper.service || true
