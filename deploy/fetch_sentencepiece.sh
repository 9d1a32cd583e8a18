#!/bin/sh
# Unpacks SentencePiece's source into .deps/sentencepiece, where engine/sentencepiece.cmake builds it.
# It comes from the project's PyPI source package, the only packaged form that carries its own
# protobuf and Abseil. Does nothing where the tree is there already.
set -eu

version=0.2.1
sha256=8138cec27c2f2282f4a34d9a016e3374cd40e5c6e9cb335063db66a0a3b71fad

root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/.deps/sentencepiece
stamp=$target/.fetched
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sha256" ]; then
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary sentencepiece \
  --dest "$work" "sentencepiece==$version"
archive=$work/sentencepiece-$version.tar.gz
if ! echo "$sha256  $archive" | sha256sum --check --quiet -; then
  echo "fetch_sentencepiece: the package index gave another file than sentencepiece $version;" \
    "expected SHA-256 $sha256" >&2
  exit 1
fi
tar -xzf "$archive" -C "$work"

# Into place at once, so that a run that is cut off or one beside this leaves no half tree.
mkdir -p "$root/.deps"
new=$(mktemp -d "$root/.deps/sentencepiece.XXXXXX")
mv "$work/sentencepiece-$version/sentencepiece/"* "$new/"
echo "$sha256" > "$new/.fetched"
chmod 755 "$new"
rm -rf "$target"
mv -T "$new" "$target" 2>/dev/null || { rm -rf "$new"; [ -f "$stamp" ]; }
