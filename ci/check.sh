#!/bin/sh
# Looks for what is wrong with the code without running it. Each check can fail; the first line of a failure says which
# it is. The programs are those of ci/tools, built into bin/tools. usage: ci/check.sh
set -eu
go=$(sh ci/setup.sh go-path)
PATH="$PWD/bin/tools:$(dirname "$(command -v "$go")"):$PATH"
export PATH GOTOOLCHAIN=local CGO_ENABLED=0
failed=0
t=$(mktemp -d "${TMPDIR:-/tmp}/katabuild-check-XXXXXX")
trap 'rm -rf "$t"' EXIT

# check NAME HOW COMMAND...: a check fails where its command does, or prints something. HOW is the way out.
check() {
	name=$1 how=$2
	shift 2
	if "$@" >"$t/out" 2>&1 && [ ! -s "$t/out" ]; then return 0; fi
	echo "check: $name: $how" >&2
	cat "$t/out" >&2
	failed=1
}

# tidy says what go mod tidy would change. Offline it needs modules that no build needs; where those are not to be had,
# that is no fault of the code.
tidy() {
	if (cd "$1" && go mod tidy -diff) >"$t/tidy" 2>&1; then return 0; fi
	if grep -q '^[+-]' "$t/tidy"; then cat "$t/tidy"; return 1; fi
	if grep -qE 'module lookup disabled|dial tcp|no such host|proxyconnect|i/o timeout|Forbidden' "$t/tidy"; then
		echo "check: tidy: skipped in $1: a module that only other systems need is not in the cache" >&2
		[ -z "${KATABUILD_TEST_REQUIRE:-}" ] || return 1
		return 0
	fi
	cat "$t/tidy"
	return 1
}

# dead prints functions that no command reaches, other than support for tests and what deadcode.txt lists; and what it
# lists and is reached. The agent with the Rego engine is a module of its own, but calls nothing of ours that the other
# agent does not.
dead() {
	deadcode -f '{{range .Funcs}}{{$.Path}} {{.Name}}{{println}}{{end}}' ./... >"$t/dead" || return 1
	sed -n 's|^github.com/katabuild/katabuild/||p' "$t/dead" |
		grep -vE '^(ci/|internal/(testenv|golden) |[^ ]*test )' | sort >"$t/found"
	sed -n 's/ *#.*//; /./p' ci/tools/deadcode.txt | sort >"$t/listed"
	if grep -nvE '^$|^#|  *# .' ci/tools/deadcode.txt; then echo "a line of deadcode.txt has no reason"; fi
	comm -23 "$t/found" "$t/listed" | sed 's/$/: no command reaches it/'
	comm -13 "$t/found" "$t/listed" | sed 's/$/: is listed in ci\/tools\/deadcode.txt, and reached or gone/'
}

files=$(git ls-files -co --exclude-standard '*.go' | while read -r f; do [ ! -e "$f" ] || echo "$f"; done)
# shellcheck disable=SC2086 # a list of files
check gofmt "run gofmt -w" gofmt -l $files
check vet "as it says" go vet ./...
check "vet of the tools" "as it says" go -C ci/tools vet ./...
check staticcheck "mend it, or say above it //lint:ignore CHECK why" staticcheck ./...
check deadcode "delete it, or list it with a reason in ci/tools/deadcode.txt" dead
check exports "begin it with a small letter, or delete it" exports -except ci/tools/exports.txt
check tidy "run go mod tidy" tidy .
check "tidy of the tools" "run go mod tidy in ci/tools" tidy ci/tools
check actionlint "as it says" actionlint -shellcheck= -pyflakes= \
	-config-file ci/pipelines/actionlint.yaml ci/pipelines/github.yml
check generated "run make generate" protos -check
check generated "run make generate" syscalls -check
exit "$failed"
