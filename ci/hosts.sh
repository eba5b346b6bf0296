#!/bin/sh
# Builds a guest from nothing on hosts of several releases of Debian, none of which has a compiler, and compares every
# file, the manifest among them. A host is a folder with the release's base, entered by pivot_root: a chroot forbids
# user namespaces. Needs root and Debian's archive. usage: ci/hosts.sh RECIPE [SUITE...]
set -eu
recipe=${1:-tiny}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- bookworm trixie sid
[ "$(id -u)" = 0 ] || { echo "hosts: making other hosts needs root" >&2; exit 1; }
t=$(mktemp -d "${TMPDIR:-/var/tmp}/katabuild-hosts-XXXXXX")
trap 'rm -rf "$t"' EXIT
chmod 755 "$t"
make --no-print-directory lock RECIPE="$recipe" >/dev/null
# What is fetched is fetched once.
cp "out/$recipe.lock.json" "$t/lock.json"
bin/katabuild fetch "recipes/$recipe" --lock "$t/lock.json" --store "$t/store" --progress plain
for suite; do
	mkdir -p "$t/recipe" "$t/$suite"
	cat >"$t/recipe/recipe.yaml" <<EOF
version: 1
name: host
extension: true
rootfs:
  layers:
    - debian: {suite: $suite, packages: [base-files, base-passwd, bash, coreutils, dash, mount, passwd, util-linux]}
EOF
	bin/katabuild lock "$t/recipe" --progress quiet >/dev/null
	bin/katabuild rootfs "$t/recipe" -o "$t/tar" --progress quiet >/dev/null
	tar -C "$t/$suite" -xpf "$t/tar/rootfs.tar"
	rm -r "$t/recipe" "$t/tar"
	mkdir -p "$t/$suite/proc" "$t/$suite/dev" "$t/$suite/tmp" "$t/$suite/old" "$t/$suite/home/builder"
	chmod 1777 "$t/$suite/tmp"
	cp -r bin recipes "$t/lock.json" "$t/$suite/home/builder"
	cp -r "$t/store" "$t/$suite/home/builder/store"
	chown -R 4242:4242 "$t/$suite/home/builder"
	for tool in gcc cc make flex bison bc; do
		[ ! -e "$t/$suite/usr/bin/$tool" ] || { echo "hosts: $suite has $tool" >&2; exit 1; }
	done
	echo "hosts: $recipe on $suite, $(sed -n 's/^PRETTY_NAME=//p' "$t/$suite/etc/os-release")"
	unshare -m sh -c '
		mount --bind "$1" "$1" && cd "$1" && mount --rbind /dev dev && mount --rbind /proc proc
		pivot_root . old && umount -l old
		cd /home/builder
		exec /usr/bin/setpriv --reuid 4242 --regid 4242 --clear-groups /usr/bin/env -i PATH=/usr/bin:/bin \
			HOME=/home/builder bin/katabuild build "recipes/$2" --lock lock.json --store store --offline \
			-o out --progress plain $3' sh "$t/$suite" "$recipe" "${KATABUILD_HOSTS_FLAGS:-}"
	(cd "$t/$suite/home/builder/out" && sha256sum ./*) >"$t/$suite.sums"
	cat "$t/$suite.sums"
	if [ -e "$t/sums" ]; then
		cmp "$t/sums" "$t/$suite.sums"
	else
		cp "$t/$suite.sums" "$t/sums"
	fi
	rm -rf "${t:?}/$suite"
done
echo "hosts: $recipe is the same on $*, byte for byte"
