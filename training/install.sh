#!/usr/bin/env bash
# Installs what training needs: .venv-training (with PyTorch, 6 GB), the operators' library and the server, and the texts.
# Can be run again: what is there is kept.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/lib.sh"

run_stage "Debian packages" install_packages
run_stage "Python environment for training" install_requirements "$nsa_root/training/requirements.txt" \
  "$nsa_root/.venv-training"
run_stage "Sources of SentencePiece and xgrammar" fetch_sources
run_stage "build" build release nsa_kernels_c nsa_server nsa_eval
fetch_text() { "$nsa_root/training/fetch_text.sh" >/dev/null; }
run_stage "texts" fetch_text
