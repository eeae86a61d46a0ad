#!/bin/sh
# fetch.sh FOLDER PACKAGE...: puts Debian packages, with what they need and this machine lacks, into FOLDER, without
# installing or starting anything. Done once for the same packages.
set -eu
folder=$1
shift
[ "$(cat "$folder/.packages" 2>/dev/null)" != "$*" ] || exit 0
rm -rf "$folder"
mkdir -p "$folder/.archives/partial"
DEBIAN_FRONTEND=noninteractive apt-get -y -qq --download-only --no-install-recommends \
	-o Dir::Cache::archives="$(realpath "$folder")/.archives" install "$@" >/dev/null
for each in "$folder"/.archives/*.deb; do
	dpkg -x "$each" "$folder"
done
rm -rf "$folder/.archives"
echo "$*" >"$folder/.packages"
