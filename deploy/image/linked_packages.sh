#!/usr/bin/env bash
# linked_packages.sh PROGRAM...: names of the Debian packages whose shared libraries the programs load, one a
# line. A distribution's own names, so that a base of another one does too.
set -euo pipefail

mapfile -t files < <(ldd "$@" | awk '$2 == "=>" { print $3 }' | xargs realpath | sort -u)
# dpkg may know a library under /lib, where that is a link to /usr/lib by now.
owners=$(dpkg-query -S "${files[@]}" "${files[@]#/usr}" 2>/dev/null || true)
for file in "${files[@]}"; do
  if ! grep -qF -e ": $file" -e ": ${file#/usr}" <<<"$owners"; then
    echo "linked_packages.sh: no package has $file" >&2
    exit 1
  fi
done
cut -d: -f1 <<<"$owners" | sort -u
