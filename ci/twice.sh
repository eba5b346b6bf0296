#!/bin/sh
# Builds a guest twice from nothing: other folder, store, umask, time zone, language, home, number of jobs and, as root,
# another user.
# Every file must be the same, the manifest among them. usage: ci/twice.sh RECIPE
set -eu
recipe=${1:-tiny}
t=$(mktemp -d "${TMPDIR:-/tmp}/katabuild-twice-XXXXXX")
trap 'rm -rf "$t"' EXIT
chmod 755 "$t"
make --no-print-directory lock RECIPE="$recipe" >/dev/null
mkdir -p "$t/a" "$t/b/deeper/still"
for d in "$t/a" "$t/b/deeper/still"; do
	cp -r bin recipes "$d"
	cp "out/$recipe.lock.json" "$d/lock.json"
done
run() { # folder, then what to put before katabuild
	d=$1; shift
	(cd "$d" && "$@" bin/katabuild build "recipes/$recipe" --lock lock.json --store "$d/store" \
		-o "$d/out" --progress plain -j "$jobs")
}
umask 022
jobs=1
TZ=UTC LANG=C HOME="$t/a" run "$t/a" env
umask 077
jobs=4
if [ "$(id -u)" = 0 ]; then
	chown -R 65534:65534 "$t/b"
	chmod -R a+rX "$t/b"
	as="setpriv --reuid 65534 --regid 65534 --clear-groups"
else
	as=env
fi
# shellcheck disable=SC2086 # a list of words
TZ=Pacific/Auckland LANG=de_DE.UTF-8 LC_ALL=tr_TR.UTF-8 HOME="$t/b/deeper" run "$t/b/deeper/still" $as
(cd "$t/a/out" && sha256sum ./*) >"$t/sums"
cat "$t/sums"
(cd "$t/b/deeper/still/out" && sha256sum --quiet -c "$t/sums")
[ "$(find "$t/a/out" -type f | wc -l)" = "$(find "$t/b/deeper/still/out" -type f | wc -l)" ]
echo "twice: $recipe is the same, byte for byte"
