#!/bin/sh
# What pipelines do with guests that have booted: release, sign, publish, deploy. The make words of these names call
# it. Settings are variables of the environment, as pipelines hand secrets on; docs/pipelines.md lists them.
# usage: ci/release.sh release|sign|publish|deploy
set -eu
umask 022
word=${1:-}
out=${OUT:-out}
release=${RELEASE_DIR:-$out/release}
t=$(mktemp -d "${TMPDIR:-/tmp}/katabuild-release-XXXXXX")
trap 'rm -rf "$t"' EXIT

# want NAME WHAT: ends where the variable NAME is not set.
want() {
	eval "value=\${$1:-}"
	[ -n "$value" ] || { echo "$word: $1 is not set: $2" >&2; exit 2; }
}

# secret NAME FILE: writes the text of a variable, which may have a newline at its end or none, into a file that nobody
# else reads.
secret() {
	eval "value=\${$1:-}"
	(umask 077 && printf '%s\n' "$(printf %s "$value")" >"$2")
}

# registries are the flags for a registry's logins, when they come in a variable.
registries() {
	[ -z "${REGISTRY_AUTH:-}" ] || { secret REGISTRY_AUTH "$t/auth.json"; echo "--registry-auth $t/auth.json"; }
}

case "$word" in
release)
	want RELEASE "the version of the guests, such as 1.4.0"
	guests=${GUESTS:-}
	if [ -z "$guests" ]; then
		for g in "$out/${RECIPE:-default}" "$out/${RECIPE:-default}"-*; do
			[ ! -e "$g/manifest.json" ] || guests="$guests $g"
		done
	fi
	[ -n "$guests" ] || { echo "release: no guests in $out: run make boot first" >&2; exit 1; }
	rm -rf "$release"
	# shellcheck disable=SC2086 # a list of folders
	bin/katabuild release $guests --version "${RELEASE#v}" --channel "${CHANNEL:-stable}" -o "$release"
	;;
sign)
	if [ -n "${SIGNING_COMMAND:-}" ]; then
		bin/katabuild sign "$release" --key-command "$SIGNING_COMMAND"
	else
		want SIGNING_KEY "the text of a key's file (katabuild keys new), or set SIGNING_COMMAND"
		secret SIGNING_KEY "$t/key"
		secret SIGNING_PASSPHRASE "$t/passphrase"
		bin/katabuild sign "$release" --key "$t/key" --passphrase-file "$t/passphrase"
	fi
	;;
publish)
	want PUBLISH_TO "a place, such as oci:registry.example/guests"
	# The version's own tag first: the channel's moves when all is there.
	flags=$(registries)
	want RELEASE "the version of the guests, such as 1.4.0"
	for tag in "${RELEASE#v}" "${CHANNEL:-stable}"; do
		case "$PUBLISH_TO" in
		oci:*) to="$PUBLISH_TO:$tag" ;;
		*) to=$PUBLISH_TO ;;
		esac
		# shellcheck disable=SC2086 # flags are words
		bin/katabuild push "$release" "$to" $flags
	done
	;;
deploy)
	want DEPLOY_FROM "a place, such as oci:registry.example/guests:stable"
	want POLICY "the file that says whose releases are accepted (docs/formats/release-policy.md)"
	root=${DESTDIR:-/}
	flags=$(registries)
	# shellcheck disable=SC2086 # flags are words
	bin/katabuild pull "$DEPLOY_FROM" "${DEPLOY_DIR:-/var/lib/katabuild/release}" --policy "$POLICY" \
		--arch "$(uname -m)" --guests "$t/guests" $flags
	if [ -e "$root/opt/katabuild/current" ]; then deed=upgrade; else deed=install; fi
	bin/kata-runtime "$deed" "$t"/guests/* --root "$root"
	bin/kata-runtime verify-install --root "$root"
	;;
*) echo "usage: ci/release.sh release|sign|publish|deploy" >&2; exit 2 ;;
esac
