#!/usr/bin/env bash
# build.sh cpu|cuda OUT: builds nsa_server and nsa_client in a fresh root and lays out under OUT what the
# image gets. Runs in the Dockerfile's build stages, as root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

device=$1 out=$2 work=$(mktemp -d)
case $device in
  cpu) options=(-DNSA_BUILD_CUDA=OFF) ;;
  cuda) options=(-DNSA_BUILD_CUDA=ON) ;;
  *) die "build.sh: device '$device' is neither cpu nor cuda" ;;
esac

# What comes before the tests' part of the list. The cache of packages is a mount that outlives this
# stage: Debian's image empties it after each installation unless told otherwise.
rm -f /etc/apt/apt.conf.d/docker-clean
sed '/^# The long document/,$d' "$nsa_root/deploy/apt-packages.txt" >"$work/packages.txt"
run_stage "packages" install_packages "$work/packages.txt"
run_stage "Sources of SentencePiece and xgrammar" fetch_sources

build_programs() {
  cmake -S "$nsa_root" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DNSA_BUILD_TESTS=OFF "${options[@]}"
  cmake --build "$work/build" --parallel "$(nproc)" --target nsa_server nsa_client
}
run_stage "programs" build_programs

lib=$out/usr/local/lib/nsa-serve
install -D -s -t "$out/usr/local/bin" "$work/build/nsa_server" "$work/build/nsa_client"
install -D -t "$lib" "$nsa_root/deploy/image/install_runtime.sh"
"$nsa_root/deploy/image/linked_packages.sh" "$out/usr/local/bin"/nsa_* >"$lib/packages.txt"
install -D -m 644 -t "$out/usr/local/share/nsa-serve" "$nsa_root/LICENSE" "$nsa_root/THIRD_PARTY.md"
