#!/bin/sh
# Runs tests. usage: ci/test.sh [boot|kernel|e2e|rego|containerd|shim|runk|oci|csi|factory|faults|arch|cross|
# kubernetes]; without an argument, what `make check` checks, the network's, runk, csi, boot, e2e, containerd and shim:
# all but the tests that build more kernels than one (kernel), which take an hour, those of pods once more with
# templates and a pool of guests (factory), those in which machines die (faults), other architectures (arch, cross),
# which are slow to emulate, OCI's judge of runtimes (oci), which sleeps much, and Kubernetes, which is built first.
# Output ends with the test runner's own lines.
set -eu
# Test programs are run in guests, which have no C library.
export CGO_ENABLED=0
go=$(sh ci/setup.sh go-path)
PATH="$(dirname "$(command -v "$go")"):$PATH"
export PATH GOTOOLCHAIN=local
out=out

guest() {
	make --no-print-directory guest RECIPE=tiny
	KATABUILD_TEST_VMLINUX="$PWD/$out/tiny/vmlinux"
	KATABUILD_TEST_BZIMAGE="$PWD/$out/tiny/bzImage"
	KATABUILD_TEST_INITRD="$PWD/$out/tiny/initrd.img"
	export KATABUILD_TEST_VMLINUX KATABUILD_TEST_BZIMAGE KATABUILD_TEST_INITRD
}

# The kernel source as the store holds it, under the name that says what it is.
source_deb() {
	store=${KATABUILD_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/katabuild}
	d=$(sed -n '/"name": "kernel source"/,/"digest"/ s/.*"digest": "sha256:\([0-9a-f]*\)".*/\1/p' "$out/tiny.lock.json")
	KATABUILD_TEST_KERNEL_SOURCE="$store/blobs/sha256/$(echo "$d" | cut -c1-2)/$d"
	export KATABUILD_TEST_KERNEL_SOURCE
}

# default_guest builds the guest that containers run in, with the agent and the shim.
default_guest() {
	make --no-print-directory guest RECIPE=default
	KATABUILD_TEST_DEFAULT_VMLINUX="$PWD/$out/default/vmlinux"
	KATABUILD_TEST_GUEST="$PWD/$out/default"
	export KATABUILD_TEST_DEFAULT_VMLINUX KATABUILD_TEST_GUEST
}

boot() {
	guest
	default_guest
	make --no-print-directory guest RECIPE=module
	KATABUILD_TEST_MODULE_GUEST="$PWD/$out/module"
	export KATABUILD_TEST_MODULE_GUEST
	KATABUILD_TEST_BOOT=1 "$go" test -count=1 -p 1 -timeout 20m \
		./runtime/... ./agent/... ./initrd/... ./kernel ./cmd/kata-runtime ./cmd/kata-agent-ctl
}

# scsi_kernel builds default's kernel with what Kata Containers' own runtime needs besides.
scsi_kernel() {
	mkdir -p "$out/scsi"
	# The lock knows patches by their names in the recipe, ../patches.
	cp -r recipes/patches "$out"
	sed "s|features: \[default\]|features: [default, virtio-scsi]|" recipes/default/recipe.yaml >"$out/scsi/recipe.yaml"
	bin/katabuild kernel "$out/scsi" --lock "$out/default.lock.json" -o "$out/scsi/kernel"
	KATABUILD_TEST_SCSI_VMLINUX="$PWD/$out/scsi/kernel/vmlinux"
	export KATABUILD_TEST_SCSI_VMLINUX
}

kernel() {
	guest
	source_deb
	default_guest
	scsi_kernel
	KATABUILD_TEST_BOOT=1 "$go" test -count=1 -run TestAGuestMountsItsDisks ./agent/storage
	(cd ci/core && "$go" vet ./...)
	KATABUILD_TEST_KERNEL=1 KATABUILD_TEST_E2E=1 "$go" test -count=1 -p 1 -timeout 120m ./kernel/... ./ci/e2e
}

# guests builds the tiny guest for every architecture.
guests() {
	make --no-print-directory agents
	for a in aarch64 ppc64le s390x riscv64; do
		make --no-print-directory guest RECIPE=tiny ARCH=$a
	done
}

# e2e_guests builds what the tests of the whole way look at.
e2e_guests() {
	guest
	make --no-print-directory guest RECIPE=minimal
	make --no-print-directory guest RECIPE=module
	guests
	default_guest
}

e2e() {
	e2e_guests
	KATABUILD_TEST_E2E=1 "$go" test -count=1 -timeout 40m ./ci/e2e ./builder/remote/serve
}

# as_root runs a command with root's rights and home, lest root's files come into the user's caches, and keeps the rest
# of the environment.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E -H env "PATH=$PATH" "$@"; fi
}

containerd() {
	default_guest
	KATABUILD_TEST_CONTAINERD=1 as_root "$go" test -count=1 -timeout 45m ./ci/containerd/...
	shim
}

# containerd's own suite for shims; its module has more in it than ours.
shim() {
	default_guest
	(cd ci/shimtest && "$go" vet ./... && KATABUILD_TEST_CONTAINERD=1 as_root "$go" test -count=1 -timeout 20m ./...)
}

faults() {
	default_guest
	KATABUILD_TEST_FAULTS=1 KATABUILD_TEST_CONTAINERD=1 as_root "$go" test -count=1 -timeout 90m \
		-run 'TestFaults|TestCauses|TestLeaks|TestSoak' ./ci/containerd
	guest
	KATABUILD_TEST_FAULTS=1 "$go" test -count=1 -run Killed ./releases/install
	KATABUILD_TEST_FAULTS=1 KATABUILD_TEST_E2E=1 "$go" test -count=1 -run TestKilledPushesAndPulls ./ci/e2e
}

runk() {
	KATABUILD_TEST_RUNK=1 KATABUILD_TEST_BUSYBOX=/bin/busybox as_root "$go" test -count=1 -timeout 20m ./ci/runk
}

# OCI's judge of runtimes has more in its module than ours. The tests of CRI are those of guests.
oci() {
	make --no-print-directory build
	for runtime in runc runk; do
		KATABUILD_TEST_RUNTIME=$runtime KATABUILD_TEST_CONTAINERD=1 as_root "$go" test -count=1 -timeout 20m \
			-run '^TestPods$' ./ci/containerd
	done
	KATABUILD_TEST_OCI=1 as_root "$go" test -count=1 -timeout 30m -parallel 4 -run TestRuntimeToolsJudgeRunk ./ci/runk
}

# Kubernetes' judge of CSI drivers has more in its module than ours.
csi() {
	KATABUILD_TEST_CSI=1 "$go" test -count=1 -run TestSanity ./runtime/csi
}

# factory has the tests of pods again, with guests that were not booted for them.
factory() {
	default_guest
	for kind in template pool; do
		KATABUILD_TEST_FACTORY=$kind KATABUILD_TEST_CONTAINERD=1 as_root "$go" test -count=1 -timeout 45m \
			-run '^(TestPods|TestTasks)$' ./ci/containerd
	done
}

rego() {
	(cd cmd/kata-agent-rego && "$go" vet ./... && "$go" test -count=1 ./...)
}

arch() {
	KATABUILD_TEST_ARCH=1 as_root "$go" test -count=1 -timeout 30m ./ci/arch
}

cross() {
	guest
	make --no-print-directory guest RECIPE=minimal
	KATABUILD_TEST_CROSS=1 "$go" test -count=1 -timeout 40m -run TestHostsWithOtherProcessors ./ci/e2e
}

# node_images makes installers for nodes as docs/kubernetes.md says, by the very commands, of the guest that pods have.
node_images() {
	page=$(awk '/^## /{s = $0 == "## The image"} /^```/{b = s && $0 == "```sh"; next} b' docs/kubernetes.md)
	rm -rf "$out/kubernetes" "$out/kubernetes-2"
	echo "$page" | PATH="$PWD/bin:$PATH" sh -eu
	echo "$page" | grep -v -e '^make' -e '^katabuild boot' |
		sed 's|1\.0\.0|2.0.0|; s|out/kubernetes|out/kubernetes-2|g' | PATH="$PWD/bin:$PATH" sh -eu
	# And a release that is signed, and the policy that takes it.
	elsewhere="$out/kubernetes-2/elsewhere"
	bin/katabuild release "$out/default" --version 3.0.0 --programs dist/programs -o "$elsewhere/release"
	echo 'of a test, and for no other purpose' >"$elsewhere/secret"
	bin/katabuild keys new "$elsewhere/key" --passphrase-file "$elsewhere/secret"
	bin/katabuild sign "$elsewhere/release" --key "$elsewhere/key" --passphrase-file "$elsewhere/secret"
	bin/katabuild keys show --policy "$elsewhere/key.pub" >"$elsewhere/policy.yaml"
	KATABUILD_TEST_NODE_ELSEWHERE="$PWD/$elsewhere"
	KATABUILD_TEST_NODE_IMAGE_1="$PWD/$out/kubernetes/image"
	KATABUILD_TEST_NODE_IMAGE_2="$PWD/$out/kubernetes-2/image"
	export KATABUILD_TEST_NODE_IMAGE_1 KATABUILD_TEST_NODE_IMAGE_2 KATABUILD_TEST_NODE_ELSEWHERE
}

kubernetes() {
	default_guest
	node_images
	KATABUILD_TEST_KUBERNETES=1 KATABUILD_TEST_CONTAINERD=1 as_root "$go" test -v -count=1 -timeout 90m \
		-run Kubernetes ./ci/containerd
	KATABUILD_TEST_KUBERNETES=1 as_root "$go" test -count=1 ./ci/chart
}

case "${1:-all}" in
boot) boot ;;
kernel) kernel ;;
rego) rego ;;
e2e) e2e ;;
containerd) containerd ;;
shim) shim ;;
runk) runk ;;
oci) oci ;;
csi) csi ;;
factory) factory ;;
faults) faults ;;
arch) arch ;;
cross) cross ;;
kubernetes) kubernetes ;;
all)
	make --no-print-directory check
	make --no-print-directory test-network
	rego
	runk
	csi
	boot
	# Both wait most of the time, for emulated guests; together they take half as long. Kernels are compiled before:
	# beside compilers, guests are too slow for tests.
	e2e_guests
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	e2e >"$log" 2>&1 &
	e2e=$!
	# Whatever becomes of the one, the other is awaited and heard. In a list with || a function
	# goes on behind what failed
	# in it.
	set +e
	(set -e; containerd)
	status=$?
	wait "$e2e" || status=1
	set -e
	cat "$log"
	exit "$status"
	;;
*)
	echo "usage: ci/test.sh [boot|kernel|e2e|rego|containerd|shim|runk|oci|csi|factory|faults|arch|cross|kubernetes]" \
		>&2
	exit 2
	;;
esac
