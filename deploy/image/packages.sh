#!/usr/bin/env bash
# packages.sh: what compiling needs, from Debian and PyPI, in a fresh root. Runs in the Dockerfile's build stages
# before the sources are there, so that a change of them finds this done.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# The cache of packages is a mount that outlives this stage: Debian's image empties it after each installation
# unless told otherwise.
rm -f /etc/apt/apt.conf.d/docker-clean
# What comes before the tests' part of the list.
packages=$(mktemp)
sed '/^# The long document/,$d' "$nsa_root/deploy/apt-packages.txt" >"$packages"
run_stage "packages" install_packages "$packages"
run_stage "Sources of SentencePiece and xgrammar" fetch_sources
