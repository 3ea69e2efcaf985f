#!/bin/bash
# Makes sure that the programs needed beside Go are there: install-test-deps.sh [demo|test|lint|vm]…, default test.
#
# What is missing comes from Debian's (or Ubuntu's) packages when this runs as root. Otherwise, and where apt-get does not help, it
# names what is missing and how to get it, and fails: a test that cannot run has not passed. What is there already, from
# wherever, is left alone, so a second run does nothing.
set -euo pipefail

missing=()
packages=()

# need WHAT CHECK PACKAGE…: when the shell words CHECK fail, WHAT is missing and the packages bring it.
need() {
	local what=$1 check=$2
	shift 2
	if (eval "$check") </dev/null >/dev/null 2>&1; then
		return
	fi
	missing+=("$what")
	packages+=("$@")
}

compiles_c() {
	echo '#include <stdlib.h>' | "${CC:-gcc}" -x c -fsyntax-only - && echo 'int main(void) { return 0; }' | "${CC:-gcc}" -x c -o /dev/null -
}

# The grpc packages of Debian belong to the interpreter of Debian, so that one is asked for by its path.
need_python() {
	need 'python3' 'command -v python3 && /usr/bin/python3 -c "import multiprocessing.connection"' python3
}

need_for_test() {
	need_python
	need 'a C compiler (the race detector links with it)' compiles_c gcc libc6-dev
	need 'gRPC for /usr/bin/python3' '/usr/bin/python3 -c "import grpc"' python3-grpcio
	need 'protobuf for /usr/bin/python3' '/usr/bin/python3 -c "import google.protobuf"' python3-protobuf
	need 'protoc' 'command -v protoc && test -e /usr/include/google/protobuf/descriptor.proto' protobuf-compiler libprotobuf-dev
	need 'grpc_python_plugin' 'command -v grpc_python_plugin' protobuf-compiler-grpc
	need 'strace' 'command -v strace' strace
	need 'jq' 'command -v jq' jq
	need 'node' 'command -v node' nodejs
	need 'npm' 'command -v npm' npm
	need 'systemd, to boot it in a namespace' '[ -x /lib/systemd/systemd ] && command -v systemctl && command -v systemd-analyze' systemd
	need 'unshare, mount and pivot_root' 'command -v unshare && command -v mount && command -v pivot_root' util-linux mount
	need 'systemd for users' 'ls /usr/lib/*/security/pam_systemd.so && command -v dbus-daemon' libpam-systemd dbus
}

need_for_lint() {
	need 'shellcheck' 'command -v shellcheck' shellcheck
	need 'git' 'command -v git' git
}

static_busybox() {
	busybox --list && ! ldd "$(command -v busybox)"
}

need_for_vm() {
	need 'qemu' 'command -v qemu-system-x86_64' qemu-system-x86
	need 'a static busybox' static_busybox busybox-static
	need 'cpio' 'command -v cpio' cpio
	need 'apt-get and dpkg, for a kernel' 'command -v apt-get && command -v dpkg'
}

look() {
	missing=()
	packages=()
	local purpose
	for purpose in "$@"; do
		case $purpose in
		demo) need_python ;;
		test) need_for_test ;;
		lint) need_for_lint ;;
		vm) need_for_vm ;;
		*)
			echo "usage: $0 [demo|test|lint|vm]…" >&2
			exit 2
			;;
		esac
	done
}

list_missing() {
	local what
	for what in "${missing[@]}"; do
		echo "missing: $what" >&2
	done
}

# The lists of a fresh image are empty and those of an old one name versions that are gone: then, and only then, they are fetched.
install_packages() {
	local options=(-y -q --no-install-recommends)
	export DEBIAN_FRONTEND=noninteractive
	if apt-get install "${options[@]}" "${packages[@]}" </dev/null; then
		return
	fi
	echo 'refreshing the package lists' >&2
	apt-get update -q </dev/null
	apt-get install "${options[@]}" "${packages[@]}" </dev/null
}

[ $# -gt 0 ] || set -- test
look "$@"
[ ${#missing[@]} -gt 0 ] || exit 0

list_missing
if ! command -v apt-get >/dev/null 2>&1; then
	echo "Install these, then run make again. (On Debian: apt-get install ${packages[*]})" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "Not root, so nothing is installed. Run: sudo apt-get install --no-install-recommends ${packages[*]}" >&2
	exit 1
fi
echo "installing ${packages[*]}"
if ! install_packages; then
	echo "apt-get could not install: ${packages[*]}" >&2
	exit 1
fi

look "$@"
if [ ${#missing[@]} -gt 0 ]; then
	echo 'The packages are installed, and this is still not usable:' >&2
	list_missing
	exit 1
fi
