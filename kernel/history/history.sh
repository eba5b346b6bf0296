#!/bin/sh
# Prints history.txt. Each argument is VERSION=FOLDER, oldest first: a version of Linux and where its source is.
# Usage: history.sh 5.10=... 6.1=... 6.12=... 7.2=... 7.3=... >history.txt
set -eu
export LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "# Options that came to Linux or left it, by the versions that were compared; history.sh writes this file."
last=
for pair; do
	version=${pair%%=*}
	(cd "${pair#*=}" && find . -name 'Kconfig*' ! -path './scripts/*' ! -path './tools/*' ! -path './Documentation/*' \
		-exec awk 'NF == 2 && $1 ~ /^(menu)?config$/ && $2 ~ /^[A-Za-z0-9_]+$/ { print $2 }' {} +) |
		sort -u >"$work/$version"
	if [ -n "$last" ]; then
		echo "- $last $version"
		comm -23 "$work/$last" "$work/$version"
		echo "+ $last $version"
		comm -13 "$work/$last" "$work/$version"
	fi
	last=$version
done
