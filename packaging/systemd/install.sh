#!/bin/sh
# Installs the units of piped and what belongs to them: install.sh PREFIX [DESTDIR]. `make install-systemd` runs it; the programs are installed
# into PREFIX/bin before. Nothing is started: that is packaging/scripts/postinst.sh, or done by hand.
set -eu
umask 022
prefix=${1:?usage: install.sh PREFIX [DESTDIR]}
root=${2:-}
here=$(dirname "$0")

# put FROM TO [MODE]: with the paths of this installation in it.
put() {
	install -d "$(dirname "$root$2")"
	sed "s#/usr/bin/piped#$prefix/bin/piped#g; s#/usr/lib/piped/#$prefix/lib/piped/#g" "$here/$1" >"$root$2.new"
	chmod "${3:-0644}" "$root$2.new"
	mv "$root$2.new" "$root$2"
}

for unit in piped.socket piped.service piped-keeper.socket piped-keeper.service; do
	put "$unit" "$prefix/lib/systemd/system/$unit"
	put "user/$unit" "$prefix/lib/systemd/user/$unit"
done
put end-sessions.sh "$prefix/lib/piped/end-sessions" 0755
put sysusers.conf "$prefix/lib/sysusers.d/piped.conf"
put tmpfiles.conf "$prefix/lib/tmpfiles.d/piped.conf"
# A configuration that is there belongs to whoever wrote it.
[ -e "$root/etc/piped/config.yaml" ] || put config.yaml /etc/piped/config.yaml

if [ -z "$root" ]; then
	echo "Installed. To create the user and start: $here/../scripts/postinst.sh configure"
fi
