#!/usr/bin/env bash
# Fills .gpu_deps with what a build on a GPU machine needs beside its compiler, CMake and CUDA: Abseil's
# and GoogleTest's headers and static libraries and nlohmann-json's headers, as Debian's packages have
# them, with the CMake files that find them there. Prints the size, which stays below 40 MiB.
#
#   tests/gpu/pack_deps.sh [FOLDER]     by default .gpu_deps at the root, which git ignores
#
# The libraries are made by gcc 12 for glibc 2.36: newer ones link them (gcc 13 and glibc 2.39, say),
# since both keep what they once had; on an older system build these parts from its own packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=${1:-.gpu_deps}
max_kib=$((40 * 1024))

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Files of an installed Debian package whose paths match the pattern.
files_of() {
  dpkg -L "$1" | grep -E "$2" | while read -r path; do [ ! -f "$path" ] || printf '%s\n' "$path"; done
}

# copy PACKAGE PATTERN: to the same places below $target.
copy() {
  dpkg-query -W "$1" >/dev/null 2>&1 ||
    die "the package $1 is not installed; tests/run.sh installs it (deploy/apt-packages.txt)"
  files_of "$1" "$2" | sed 's|^/usr/||' | tar -C /usr -cf - --dereference -T - |
    tar -xf - -C "$target"
}

# Abseil's CMake files name its shared libraries: the static ones stand beside them under the same names.
make_static() {
  local folder=$1
  sed -i -e 's/ SHARED IMPORTED/ STATIC IMPORTED/' \
    -e 's/"-Wl,--push-state,--as-needed;-latomic;-Wl,--pop-state"/""/' "$folder/abslTargets.cmake"
  sed -i -e '/IMPORTED_SONAME/d' -e 's/\.so\.[0-9.]*"/.a"/' "$folder/abslTargets-none.cmake"
  if grep -n 'SHARED\|\.so' "$folder"/abslTargets*.cmake | grep -v '^[^:]*:[0-9]*: *#' >&2; then
    die "abslTargets.cmake still names shared libraries"
  fi
}

rm -rf "$target"
mkdir -p "$target"
copy libabsl-dev '^/usr/include/|\.a$|\.cmake$'
copy libgtest-dev '^/usr/include/|\.a$|\.cmake$'
copy libgmock-dev '^/usr/include/|\.a$|\.cmake$'
copy nlohmann-json3-dev '^/usr/include/|\.cmake$'
find "$target" -name '*.a' -exec strip --strip-debug {} +
make_static "$(dirname "$(find "$target" -name abslTargets.cmake)")"

kib=$(du -sk --apparent-size "$target" | cut -f1)
printf '%s: %d.%d MiB\n' "$target" $((kib / 1024)) $((kib % 1024 * 10 / 1024))
[ "$kib" -le "$max_kib" ] || die "more than $((max_kib / 1024)) MiB"
