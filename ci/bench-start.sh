#!/bin/sh
# Measures how long containers take to start, and writes the table and the picture of docs/benchmarks.md: guests that
# boot, are restored from a template and wait in the pool, with a disk and with an initrd, beside runc. On a host with
# KVM the same words give that host's figures. Needs root and out/default. usage: ci/bench-start.sh [ROUNDS [PAGE]]
set -eu
export CGO_ENABLED=0
go=$(sh ci/setup.sh go-path)
PATH="$(dirname "$(command -v "$go")"):$PATH"
export PATH GOTOOLCHAIN=local
rounds=${1:-20}
page=${2:-docs/benchmarks.md}
[ "$(id -u)" = 0 ] || { echo "bench-start: containerd needs root" >&2; exit 1; }

# The same kernel and agent with an initrd in place of the disk. The lock knows patches by their names, ../patches.
mkdir -p out/initrd
cp -r recipes/patches out
{
	sed '/^rootfs:/,/^boot:/ {/^boot:/!d}' recipes/default/recipe.yaml
	echo 'initrd: {compression: none}'
} >out/initrd/recipe.yaml
cp out/default.lock.json out/initrd/lock.json
bin/katabuild lock out/initrd --progress quiet >/dev/null # what is pinned stays so
bin/katabuild build out/initrd -o out/initrd/guest --progress plain

KATABUILD_TEST_CONTAINERD=1 KATABUILD_TEST_GUEST="$PWD/out/default" \
	KATABUILD_TEST_BENCH_START="$PWD/out/bench-start.json" \
	KATABUILD_TEST_INITRD_GUEST="$PWD/out/initrd/guest" KATABUILD_TEST_BENCH_RUNS="$rounds" \
	"$go" test -count=1 -timeout 120m -run '^TestBenchStart$' ./ci/containerd
"$go" run ./ci/bench start -from out/bench-start.json -page "$page"
