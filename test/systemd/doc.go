// Package systemd boots a real systemd and tries out the units of packaging/ in
// it: installed by the scripts of the package, with a child and a client that
// check every message in both directions, while the daemon is restarted, killed,
// hung, reloaded, upgraded and rolled back.
//
// The boot is systemd as process 1 of namespaces of its own, over a copy on
// write of this machine: see boot.sh. It takes root, and less than a second.
// The test binary runs inside as well, as the client and as the child.
//
// CHAOS=long, or CHAOS=full, does every step several times.
package systemd
