#!/bin/sh
# Installs the Debian packages that the demo and the tests use. Does nothing,
# and touches no network, when they are all there.
#
#	hack/install-deps.sh demo|test|model|debian|node|all
#	hack/install-deps.sh --list demo|test|model|debian|node|all    only print the packages
set -eu

# demo: the hypervisor's QEMU, the tenant's and the guest builder's tools.
demo="qemu-system-x86 qemu-utils ovmf cryptsetup-bin
	busybox-static syslinux syslinux-common systemd-boot-efi mtools fdisk e2fsprogs"
# test: what the tests compare with; gcc because the race detector needs cgo.
# qemu-user runs the assembly for arm64; gvncviewer holds a VNC client without a window.
# openssh-server is for its sshd: tests run it by themselves, on 127.0.0.1. chromium is for the page.
test="nbdkit libnbd-bin fio cpio dosfstools iproute2 procps gcc libc6-dev qemu-user gvncviewer
	openssh-server openssh-client rsync git openssl chromium"
# model: the model checker of docs/model, and what compiles its searches.
model="spin gcc libc6-dev"
# debian: what builds a Debian guest, and what is tried on it. all is without these.
debian="debootstrap debian-archive-keyring openssh-client rsync git ansible-core"
# node: what brings Node.js for the page's tests, see install-node.sh.
node="nodejs npm"
# The guest's kernels are not installed, the guest builder unpacks them; apt only
# has to know where they are.
known="linux-image-cloud-amd64 linux-image-amd64"

list_only=
if [ "${1:-}" = --list ]; then
	list_only=1
	shift
fi
case "${1:-}" in
demo) wanted=$demo ;;
test) wanted=$test ;;
model) wanted=$model known= ;;
debian) wanted="$demo $debian" ;;
node) wanted=$node known= ;;
all) wanted="$demo $test spin" ;;
*)
	echo "usage: $0 [--list] demo|test|model|debian|node|all" >&2
	exit 2
	;;
esac
if [ -n "$list_only" ]; then
	printf '%s\n' $wanted
	exit
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	echo "$0: this system has no apt. Install by hand what these Debian packages hold:" >&2
	echo "  " $wanted >&2
	exit 1
fi

missing=
for p in $wanted; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) || status=
	[ "$status" = installed ] || missing="$missing $p"
done
unknown=
kernels="${UVBOND_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/uvbond}/guest/packages"
if [ ! -d "$kernels/linux-image-cloud-amd64" ] || [ ! -d "$kernels/linux-image-amd64" ]; then
	for p in $known; do
		apt-cache show "$p" >/dev/null 2>&1 || unknown="$unknown $p"
	done
fi
[ -n "$missing$unknown" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		as_root="sudo -n env DEBIAN_FRONTEND=noninteractive"
	else
		echo "$0: not root, and sudo asks for a password. Run as root:" >&2
		echo "  apt-get update${missing:+ && apt-get install --no-install-recommends$missing}" >&2
		exit 1
	fi
fi
export DEBIAN_FRONTEND=noninteractive

log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
	if ! $as_root "$@" >"$log" 2>&1; then
		cat "$log" >&2
		echo "$0: failed: $*" >&2
		exit 1
	fi
}

echo "installing:${missing:- (only the package lists)}"
quietly apt-get -qq -o DPkg::Lock::Timeout=300 update
if [ -n "$missing" ]; then
	quietly apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends $missing
fi
