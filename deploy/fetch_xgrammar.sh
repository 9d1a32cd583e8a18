#!/bin/sh
# xgrammar's C++ source into .deps/xgrammar. Its PyPI source package carries picojson and dlpack.
set -eu
exec "$(dirname "$0")/fetch_source.sh" xgrammar 0.2.8 \
  8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80 .
