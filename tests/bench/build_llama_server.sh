#!/usr/bin/env bash
# llama.cpp's own server into build/llama.cpp/bin/llama-server, for tests/bench/serving.py to set ours beside. The
# source is the one that the oracles' llama-cpp-python is built of, checked by SHA-256; the build is for this machine's
# processor, without a web page and without TLS. Needs deploy/apt-packages.txt.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../deploy/lib.sh"
cd "$nsa_root"

version=$(sed -n 's/^llama-cpp-python==//p' tests/requirements-oracles.txt)
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

make_venv
PATH=$nsa_venv/bin:$PATH deploy/fetch_source.sh llama_cpp_python "$version" "$sha256" vendor/llama.cpp
launcher=()
if command -v ccache >/dev/null; then
  launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
mkdir -p build/llama.cpp
cmake -S .deps/llama_cpp_python -B build/llama.cpp -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_CCACHE=OFF \
  -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
  -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
  "${launcher[@]}" >build/llama.cpp/configure.log 2>&1 ||
  { cat build/llama.cpp/configure.log >&2; die "CMake could not configure llama.cpp"; }
cmake --build build/llama.cpp --parallel "$(nproc)" --target llama-server
