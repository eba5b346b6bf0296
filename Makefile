# Every word a person or CI needs. `make help` explains them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GO := $(shell sh ci/setup.sh go-path)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
OUT := out
STORE ?=
RECIPE ?= default
ARCH ?=
# GUEST is what the guest of RECIPE for ARCH is called.
GUEST = $(RECIPE)$(ARCH:%=-%)
export GOTOOLCHAIN = local
export CGO_ENABLED = 0
KATABUILD := bin/katabuild
AGENT_FLAGS := -trimpath -buildvcs=false -ldflags='-s -w -buildid='
ifneq ($(STORE),)
export KATABUILD_STORE := $(STORE)
endif

.PHONY: help
help: ## explain these words
	@awk -F':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

## Use

.PHONY: setup
setup: ## install what is missing: Debian packages (as root or with sudo) and Go
	@sh ci/setup.sh

.PHONY: build
build: ## build katabuild, kata-runtime, kata-agent-ctl, kata-deploy, runk, CSI driver, shim and agent into bin/
	@mkdir -p bin
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)' \
		-o bin/katabuild ./cmd/katabuild
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w' -o bin/katabuild-cc ./cmd/katabuild-cc
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)' \
		-o bin/kata-runtime ./cmd/kata-runtime
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)' \
		-o bin/kata-deploy ./cmd/kata-deploy
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)' \
		-o bin/containerd-shim-kata-v2 ./cmd/containerd-shim-kata-v2
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)' \
		-o bin/kata-agent-ctl ./cmd/kata-agent-ctl
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)' -o bin/runk ./cmd/runk
	@$(GO) build -trimpath -buildvcs=false -ldflags='-s -w -X main.version=$(VERSION)' \
		-o bin/csi-kata-directvolume ./cmd/csi-kata-directvolume
	@GOOS=linux GOARCH=amd64 $(GO) build $(AGENT_FLAGS) -o bin/kata-agent-x86_64 ./cmd/kata-agent

# The Go names of the architectures that guests are built for; internal/arch has the table.
go_arch = $(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(1)))
ARCHS := x86_64 aarch64 ppc64le s390x riscv64

.PHONY: agents
agents: build $(ARCHS:%=bin/kata-agent-%) ## build the agents of all architectures into bin/

.PHONY: FORCE
bin/kata-agent-%: FORCE
	@GOOS=linux GOARCH=$(call go_arch,$*) $(GO) build $(AGENT_FLAGS) -o $@ ./cmd/kata-agent

.PHONY: agent-rego
agent-rego: ## build the agent that reads policies in Rego too (25 MB) into bin/
	@mkdir -p bin
	@cd cmd/kata-agent-rego && GOOS=linux GOARCH=amd64 $(GO) build $(AGENT_FLAGS) -o ../../bin/kata-agent-rego-x86_64 .

DESTDIR ?= /
.PHONY: install
install: ## install shim, kata-runtime and the guest in out/ on this host, and tell containerd (as root)
	@test -e $(OUT)/$(RECIPE)/manifest.json || { echo "no guest in $(OUT)/$(RECIPE): run make guest first"; exit 1; }
	@bin/kata-runtime install $(OUT)/$(RECIPE) --root $(DESTDIR)

.PHONY: uninstall
uninstall: ## take off this host what make install put there (as root)
	@bin/kata-runtime uninstall --root $(DESTDIR)

.PHONY: dist
dist: ## build the programs and agents for ARCH, or every architecture, into dist/programs/ARCH/
	@sh ci/dist.sh dist/programs "$(VERSION:v%=%)" "$(COMMIT)" $(ARCH)

# With RELEASE_DIR, the folder of a release, the image has that, too.
.PHONY: node-image
node-image: build dist ## make the image that keeps the runtime on nodes of Kubernetes, for ARCH or all, in out/
	@$(KATABUILD) node-image $(RELEASE_DIR) -o $(OUT)/node-image $(ARCH:%=--arch %) --version "$(VERSION:v%=%)"

.PHONY: packages
packages: agents ## make .deb, .rpm, .apk and Arch packages of the programs for ARCH (x86_64) in dist/
	@sh ci/packages.sh $(or $(ARCH),x86_64)

.PHONY: demo
demo: ## from nothing to a running guest that proves what it is: set up, build, boot, verdict
	@sh ci/setup.sh
	@$(MAKE) --no-print-directory build boot

# lock makes sure there is a lock that the archive can still satisfy. It asks the archive only when there is none, or
# the recipe is newer.
.PHONY: lock
lock: build
	@mkdir -p $(OUT)
	@test $(OUT)/$(GUEST).lock.json -nt recipes/$(RECIPE)/recipe.yaml || \
		$(KATABUILD) lock recipes/$(RECIPE) $(ARCH:%=--arch %) --lock $(OUT)/$(GUEST).lock.json

.PHONY: guest
guest: lock $(ARCH:%=bin/kata-agent-%) ## build the guest of RECIPE (default: default) for ARCH (x86_64) into out/
	@$(KATABUILD) build recipes/$(RECIPE) $(ARCH:%=--arch %) --lock $(OUT)/$(GUEST).lock.json -o $(OUT)/$(GUEST)

.PHONY: boot
boot: guest ## build and boot the guest of RECIPE for ARCH, and print the verdict
	@$(KATABUILD) boot $(OUT)/$(GUEST)

# Each architecture is made by itself, so that the figures of one do not depend on another.
.PHONY: guests
guests: agents ## build, boot and attest the guest of RECIPE for every architecture
	@sh ci/setup.sh arch
	@for a in $(ARCHS); do \
		$(MAKE) --no-print-directory boot RECIPE=$(RECIPE) ARCH=$${a#x86_64} || \
			{ echo "guests: $$a failed"; exit 1; }; done

## Release

# Settings are variables that docs/pipelines.md lists: RELEASE, CHANNEL, GUESTS, SIGNING_KEY, PUBLISH_TO and so on.
.PHONY: release
release: build ## make the release RELEASE=VERSION of the guests of RECIPE in out/, which have booted
	@OUT=$(OUT) RECIPE=$(RECIPE) sh ci/release.sh release

.PHONY: sign
sign: build ## sign the release in out/ with the key whose text is in SIGNING_KEY, or by SIGNING_COMMAND
	@OUT=$(OUT) sh ci/release.sh sign

.PHONY: publish
publish: build ## push the release in out/ to PUBLISH_TO
	@OUT=$(OUT) sh ci/release.sh publish

.PHONY: deploy
deploy: build ## take the release at DEPLOY_FROM that POLICY accepts, and install it on this host (as root)
	@DESTDIR=$(DESTDIR) sh ci/release.sh deploy

## Check

# tools are what ci/check.sh asks. Go keeps what it built, so that building them again takes no time.
.PHONY: tools
tools:
	@mkdir -p bin/tools
	@$(GO) -C ci/tools build -o ../../bin/tools/ tool ./exports ./protos ./syscalls

.PHONY: lint
lint: tools ## formatting, vet, staticcheck, dead code, needless exports, go.mod and generated code
	@sh ci/check.sh

.PHONY: check
check: lint ## lint and unit tests: a plain user, offline, within a minute
	@$(GO) test ./...

.PHONY: test
test: ## install what is missing, run all tests but test-kernel, -faults, -kubernetes, -oci, -arch, -cross and twice
	@sh ci/setup.sh tests
	@sh ci/test.sh

.PHONY: test-network
test-network: ## tests that need Debian's archive
	@KATABUILD_TEST_NETWORK=1 $(GO) test -count=1 ./builder/fetch

.PHONY: test-kernel
test-kernel: ## tests that build several kernels from real source (an hour)
	@sh ci/test.sh kernel

.PHONY: test-boot
test-boot: ## tests that boot guests in QEMU
	@sh ci/test.sh boot

.PHONY: test-e2e
test-e2e: ## tests of the whole way: tampering, killed builds, full disks, offline
	@sh ci/test.sh e2e

.PHONY: test-rego
test-rego: ## tests of the agent with the Rego engine, which is a module of its own
	@sh ci/test.sh rego

.PHONY: test-containerd
test-containerd: ## tests that run containers in guests, by containerd 1.6 and 2 (as root, in own namespaces)
	@sh ci/test.sh containerd

.PHONY: test-runk
test-runk: ## run containers on this host by runk and by runc, and compare what a user sees (as root)
	@sh ci/test.sh runk

.PHONY: test-oci
test-oci: ## let OCI's runtime-tools and our tests of CRI judge runk and runc (as root; minutes)
	@sh ci/test.sh oci

.PHONY: test-csi
test-csi: ## let Kubernetes' judge of CSI drivers, csi-sanity, judge csi-kata-directvolume
	@sh ci/test.sh csi

.PHONY: test-shim
test-shim: ## let containerd's suite for shims judge the shim, without containerd (as root)
	@sh ci/test.sh shim

.PHONY: test-faults
test-faults: ## kill QEMU, virtiofsd, shim and containerd (KATABUILD_TEST_CYCLES each, 3), and look for leaks (as root)
	@sh ci/test.sh faults

.PHONY: test-factory
test-factory: ## run the tests of pods and tasks with guests that are restored, and with a pool of them (as root)
	@sh ci/test.sh factory

.PHONY: test-kubernetes
test-kubernetes: ## run pods of Kubernetes, whose parts are built first, in guests, and the chart (as root; minutes)
	@sh ci/test.sh kubernetes

.PHONY: test-arch
test-arch: ## run a container with Debian's kernel for every architecture, emulated (as root; 300 MB the first time)
	@sh ci/setup.sh arch
	@sh ci/test.sh arch

.PHONY: test-packages
test-packages: ## make packages twice, have dpkg install and purge them, and boot a host with them (as root)
	@sh ci/setup.sh packaging
	@$(MAKE) --no-print-directory guest RECIPE=tiny
	@KATABUILD_TEST_PACKAGES=1 $(GO) test -count=1 -timeout 30m -run TestPackages ./ci/e2e

.PHONY: test-cross
test-cross: ## build and vet the agent for every architecture, and build guests as hosts of others do (emulated)
	@KATABUILD_TEST_CROSS=1 $(GO) test -count=1 ./cmd/kata-agent
	@sh ci/setup.sh cross
	@sh ci/test.sh cross

.PHONY: twice
twice: build ## build the guest of RECIPE twice, in other folders, as other users, and compare every byte
	@KATABUILD_TEST_TWICE=1 $(GO) test -count=1 -timeout 30m -run Twice ./cmd/kata-agent ./initrd ./ci/e2e
	@sh ci/twice.sh $(RECIPE)

.PHONY: hosts
hosts: build ## build the guest of RECIPE on bookworm, trixie and sid, and compare every byte (as root)
	@sh ci/hosts.sh $(RECIPE)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (default 20s)
	@sh ci/fuzz.sh $(or $(FUZZTIME),20s)

## Measure

.PHONY: bench-containers
bench-containers: build ## measure containers, files, network and streams (as root, with the guest in out/)
	@KATABUILD_TEST_BENCH=1 KATABUILD_TEST_CONTAINERD=1 $(GO) test -count=1 -timeout 20m \
		-run '^TestBench$$' -v ./ci/containerd | grep '^bench'

.PHONY: bench-runk
bench-runk: ## measure running /bin/true in a container by runk, runc and crun (as root)
	@KATABUILD_TEST_BENCH=1 KATABUILD_TEST_RUNK=1 KATABUILD_TEST_BUSYBOX=/bin/busybox $(GO) test -count=1 -timeout 20m \
		-run '^TestBench$$' -v ./ci/runk | grep '^bench'

.PHONY: bench-start
bench-start: guest ## measure how long containers take to start, into docs/benchmarks.md (as root; ROUNDS times, 20)
	@sh ci/bench-start.sh $(or $(ROUNDS),20)

.PHONY: files-table
files-table: build ## write the table of docs/files.md: operations on files under runc and in guests (as root)
	@KATABUILD_TEST_FILES=1 KATABUILD_TEST_CONTAINERD=1 $(GO) test -count=1 -timeout 20m \
		-run '^TestFilesTable$$' ./ci/containerd

.PHONY: bench
bench: guest bench-images bench-releases ## measure boot, build and sizes, beside what a user would use instead
	@KATABUILD_TEST_KERNEL_VMLINUX=$(CURDIR)/$(OUT)/$(RECIPE)/vmlinux \
		$(GO) test -count=1 ./kernel -run '^TestBenchBoot$$' -v | grep '^kernel boot'
	@$(GO) run ./ci/bench -guest $(OUT)/$(RECIPE)

.PHONY: bench-kernels
bench-kernels: guests ## measure the kernels of RECIPE for every architecture: cost, sizes, boot
	@$(GO) run ./ci/bench kernels -recipe $(RECIPE)

.PHONY: cost-page
cost-page: guest ## write the tables of docs/kernel-cost.md: what the features and options of RECIPE's kernel cost
	@$(KATABUILD) kernel cost recipes/$(RECIPE) --lock $(OUT)/$(GUEST).lock.json --markdown >$(OUT)/kernel-cost.md
	@awk -v tables=$(OUT)/kernel-cost.md '/^<!-- The end of the tables/ {skip = 0} !skip {print} \
		/^<!-- The tables are made/ {skip = 1; while ((getline line < tables) > 0) print line; print ""}' \
		docs/kernel-cost.md >$(OUT)/kernel-cost.page && cp $(OUT)/kernel-cost.page docs/kernel-cost.md

.PHONY: bench-images
bench-images: build ## measure making disk images, beside mkfs and mmdebstrap (needs Debian's archive and 12 GB of disk)
	@$(GO) run ./ci/bench images

.PHONY: bench-releases
bench-releases: guest ## measure release, pull, update and verify, beside a static tarball (needs Debian's archive)
	@$(GO) run ./ci/bench releases

## Keep

.PHONY: golden
golden: ## rewrite the golden files; read the diff before you commit it
	@out=$$(KATABUILD_GOLDEN_UPDATE=1 $(GO) test ./... 2>&1) || { echo "$$out" | grep -v -e '^ok ' -e 'no test files'; \
		echo "golden: the tests above failed, whatever was written"; exit 1; }
	@git status --short -- '*testdata*'

.PHONY: changelog
changelog: ## write releases/CHANGELOG.md from the notes
	@$(GO) run ./ci/changelog

.PHONY: kustomize
kustomize: ## write releases/kubernetes/kustomize from the chart (builds Helm the first time)
	@$(GO) run ./ci/chart

.PHONY: release-notes
release-notes: ## move the notes into the page of the release of VERSION, releases/dated/DAY-VERSION.md
	@$(GO) run ./ci/changelog -release "$(VERSION)" -day "$$(date -u +%F)"

.PHONY: generate
generate: tools ## rewrite generated code
	@bin/tools/protos
	@PATH="$(dir $(shell command -v $(GO))):$$PATH" bin/tools/syscalls

.PHONY: ci
ci: ## what CI runs
	@bash .ci/run

.PHONY: clean
clean: ## remove bin/, out/ and dist/ (the store stays: katabuild store gc)
	@rm -rf bin out dist
