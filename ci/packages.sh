#!/bin/sh
# Makes packages of the programs for one architecture in dist/. The time of every file is that of the commit, so that
# the same commit makes the same bytes. usage: ci/packages.sh ARCH [VERSION]
set -eu
arch=$1
case $arch in
x86_64) goarch=amd64 ;;
aarch64) goarch=arm64 ;;
ppc64le | s390x | riscv64) goarch=$arch ;;
*) echo "packages: no architecture $arch" >&2; exit 2 ;;
esac
go=$(sh ci/setup.sh go-path)
time=$(git log -1 --format=%ct)
# A version as semver.org has it: a tag's, or one before any.
version=${2:-$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-\([0-9]*\)-g/+\1.g/')}
version=${version:-0.0.0+git$(git log -1 --date=format:%Y%m%d --format=%cd.%h)}
sh ci/dist.sh dist/programs "$version" "$(git rev-parse HEAD)" "$arch"
bin=dist/programs-$arch
rm -rf "$bin" dist/share
cp -r "dist/programs/$arch" "$bin"
cp bin/kata-agent-* "$bin"
export CGO_ENABLED=0 GOTOOLCHAIN=local
for p in katabuild kata-runtime kata-agent-ctl runk csi-kata-directvolume; do
	"$go" run "./cmd/$p" man -o dist/share
done
mkdir -p dist/share/units
for u in docs/monitoring/kata-monitor.service docs/units/*.service; do
	sed 's|/usr/local/bin/|/usr/bin/|; /^# .*\/etc\/systemd/d; /^# systemctl enable/d' "$u" >"dist/share/units/${u##*/}"
done
gzip -9 -n dist/share/man1/*
mkdir -p dist/share/changelog
for p in katabuild katabuild-runtime; do
	printf '%s (%s) unstable; urgency=low\n\n  * What changed: releases/CHANGELOG.md in the source.\n\n -- %s  %s\n' \
		"$p" "$version" 'katabuild maintainers <maintainers@katabuild.example>' \
		"$(LC_ALL=C TZ=UTC date -R -d "@$time")" | gzip -9 -n >"dist/share/changelog/$p.gz"
done
"$go" -C ci/pack run . -version "$version" -arch "$goarch" -programs "$PWD/$bin" -share "$PWD/dist/share" \
	-repository "$PWD" -time "$time" -o "$PWD/dist"
