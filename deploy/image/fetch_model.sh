#!/usr/bin/env bash
# fetch_model.sh none|default TARGET: makes the folder TARGET; with "default" the default model is in it as
# model.gguf.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

mkdir -p "$2"
case $1 in
  none) ;;
  default)
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install ca-certificates python3-venv
    install -m 644 "$("$nsa_root/deploy/fetch_model.sh")" "$2/model.gguf"
    ;;
  *) die "fetch_model.sh: WITH_MODEL is '$1', expected none or default" ;;
esac
