#!/bin/sh
# fetch_source.sh NAME VERSION SHA256 FOLDER: unpacks FOLDER of a project's PyPI source package into
# .deps/NAME, where engine/NAME.cmake builds it. Does nothing where that tree is there already.
set -eu

name=$1 version=$2 sha256=$3 folder=$4

root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/.deps/$name
stamp=$target/.fetched
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sha256" ]; then
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary "$name" \
  --dest "$work" "$name==$version"
archive=$work/$name-$version.tar.gz
if ! echo "$sha256  $archive" | sha256sum --check --quiet -; then
  echo "fetch_source: the package index gave another file than $name $version;" \
    "expected SHA-256 $sha256" >&2
  exit 1
fi
tar -xzf "$archive" -C "$work"

# Into place at once, so that a run that is cut off or one beside this leaves no half tree.
mkdir -p "$root/.deps"
new=$(mktemp -d "$root/.deps/$name.XXXXXX")
mv "$work/$name-$version/$folder/"* "$new/"
echo "$sha256" > "$new/.fetched"
chmod 755 "$new"
rm -rf "$target"
mv -T "$new" "$target" 2>/dev/null || { rm -rf "$new"; [ -f "$stamp" ]; }
