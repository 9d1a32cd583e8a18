#!/usr/bin/env bash
# build.sh cpu|cuda OUT: builds nsa_server and nsa_client and lays out under OUT what the image gets. Runs in the
# Dockerfile's build stages after packages.sh, as root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

device=$1 out=$2
case $device in
  cpu) options=(-DNSA_BUILD_CUDA=OFF) ;;
  cuda) options=(-DNSA_BUILD_CUDA=ON) ;;
  *) die "build.sh: device '$device' is neither cpu nor cuda" ;;
esac

# The preset that everybody builds, so that a compiler cache serves both.
build_programs() {
  cd "$nsa_root"
  cmake --preset release -DNSA_BUILD_TESTS=OFF "${options[@]}"
  cmake --build --preset release --parallel "$(nproc)" --target nsa_server nsa_client
  ccache --show-stats
}
run_stage "programs" build_programs

lib=$out/usr/local/lib/nsa-serve
install -D -s -t "$out/usr/local/bin" "$nsa_root"/build/release/nsa_{server,client}
install -D -t "$lib" "$nsa_root/deploy/image/install_runtime.sh"
"$nsa_root/deploy/image/linked_packages.sh" "$out/usr/local/bin"/nsa_* >"$lib/packages.txt"
install -D -m 644 -t "$out/usr/local/share/nsa-serve" "$nsa_root/LICENSE" "$nsa_root/THIRD_PARTY.md"
