#!/usr/bin/env bash
# Fetches the texts that models are trained on, out of Debian packages (training/README.md lists them with
# their licences), into the cache folder (NSA_CACHE_DIR, else XDG_CACHE_HOME/nsa-serve, else
# ~/.cache/nsa-serve) and prints the folder: one folder a package, one file a document, the names as the
# package has them. What is there is kept.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/lib.sh"

packages=(python3.11-doc linux-doc-6.1 developers-reference debian-policy dict-devil dict-jargon)
target=$nsa_cache/training_text
stamp=$target/.fetched

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "${packages[*]}" ]; then
  echo "$target"
  exit 0
fi
command -v dpkg-deb >/dev/null || die "this is no Debian: unpack the texts of ${packages[*]} yourself and name" \
  "their folder as 'text' in the configuration"

# In the cache folder, so that the last step is a rename: whoever looks sees no folder or a whole one.
mkdir -p "$nsa_cache"
work=$(mktemp -d "$nsa_cache/fetch_text.XXXXXX")
trap 'rm -rf "$work"' EXIT
# apt fetches as a user of its own, who must be able to write here.
mkdir -m 777 "$work/packages"
chmod 755 "$work"
say "fetch_text: fetching ${packages[*]} (55 MB)"
(cd "$work/packages" && apt-get -qq download "${packages[@]}" >/dev/null) ||
  die "apt-get could not download ${packages[*]}; is a Debian 12 mirror in reach?"

for package in "${packages[@]}"; do
  dpkg-deb -x "$work/packages/${package}"_*.deb "$work/unpacked"
  mkdir -p "$work/text/$package"
  # Sources of manuals, texts, and books in dictd's form, which is gzip's; no translations, and no
  # second copy of the policy manual, which models are tested on.
  (cd "$work/unpacked" && find . -type f \
    \( -name '*.rst' -o -name '*.rst.txt' -o -name '*.txt' -o -name '*.rst.gz' -o -name '*.txt.gz' \
    -o -name '*.dict.dz' \) -not -path '*/translations/*' -not -path '*/_static/*' \
    -not -path '*/policy.html/*' -print0 |
    while IFS= read -r -d '' file; do
      name=${file#./usr/share/}
      name=${name#doc/}
      name=$work/text/$package/${name//\//,}
      case $file in
        *.gz | *.dz) gzip -dc <"$file" >"${name%.*}" ;;
        *) cat "$file" >"$name" ;;
      esac
    done)
  rm -rf "$work/unpacked"
done
echo "${packages[*]}" >"$work/text/.fetched"
rm -rf "$target"
mv -T "$work/text" "$target"
echo "$target"
