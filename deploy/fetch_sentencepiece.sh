#!/bin/sh
# SentencePiece's source into .deps/sentencepiece. Its PyPI source package is the only packaged form
# that carries its own protobuf and Abseil.
set -eu
exec "$(dirname "$0")/fetch_source.sh" sentencepiece 0.2.1 \
  8138cec27c2f2282f4a34d9a016e3374cd40e5c6e9cb335063db66a0a3b71fad sentencepiece
