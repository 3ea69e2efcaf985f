#!/bin/bash
# Runs tests of a package in a virtual machine of its own, by software emulation: vm.sh PACKAGE TESTS [VARIABLE=VALUE]…
#
# The machine has Debian's kernel, all of its limits (a million descriptors, cgroup v2 with every controller) and nothing else: this
# repository's programs, the package's test binary and busybox. What the tests print is printed here, and their exit code is this one's.
# Memory and time: VM_MEMORY (MiB, 8192), VM_LIMIT (seconds, 1800).
set -euo pipefail
cd "$(dirname "$0")/.."

package=$1 tests=$2
shift 2
test/setup/install-test-deps.sh vm

kernels=.tmp/vm/kernel
if ! ls $kernels/boot/vmlinuz-* >/dev/null 2>&1; then
	mkdir -p $kernels
	name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
	(cd $kernels && apt-get download "$name" && dpkg -x linux-image-*.deb . && rm linux-image-*.deb)
fi

root=$(mktemp -d)
trap 'rm -rf "$root" "$root.cpio" "$root.out"' EXIT
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,opt/programs}
cp "$(command -v busybox)" "$root/bin/busybox"
cp -r packaging "$root/opt/"
CGO_ENABLED=0 go build -buildvcs=false -o "$root/opt/programs/" ./cmd/piped ./cmd/piped-keeper ./cmd/pipectl
CGO_ENABLED=0 go test -c -o "$root/opt/test" "$package"
printf '%s\n' 'root:x:0:0::/tmp:/bin/sh' >"$root/opt/passwd"
{
	echo '#!/bin/busybox sh'
	echo '/bin/busybox --install -s /bin'
	echo 'export PATH=/bin HOME=/tmp PROGRAMS_UNDER_TEST=/opt/programs'
	for variable in "$@"; do
		printf 'export %q\n' "$variable"
	done
	printf 'tests=%q\n' "$tests"
	cat <<'INIT'
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /etc
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
cp /opt/passwd /etc/passwd
echo 4194304 >/proc/sys/kernel/pid_max
ulimit -n 1048576
cd /tmp
/opt/test -test.v -test.timeout 60m -test.run "$tests" 2>&1
echo "vm-exit=$?"
poweroff -f
INIT
} >"$root/init"
chmod +x "$root/init"
(cd "$root" && find . -print0 | cpio --null -o -H newc --quiet) >"$root.cpio"

timeout "${VM_LIMIT:-1800}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m "${VM_MEMORY:-8192}" -smp 2 -display none -monitor none -no-reboot -nic none \
	-serial stdio -kernel $kernels/boot/vmlinuz-* -initrd "$root.cpio" -append 'console=ttyS0 rdinit=/init quiet loglevel=3 panic=-1' </dev/null |
	tr -d '\r' | tee "$root.out" | grep -v '^vm-exit='
code=$(sed -n 's/.*vm-exit=//p' "$root.out" | tail -1)
exit "${code:-125}"
