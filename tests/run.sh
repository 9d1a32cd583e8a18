#!/usr/bin/env bash
# Installs what is missing, builds, and runs the whole test suite. Can be run again and again.
#
#   tests/run.sh               everything that CI runs
#   tests/run.sh --lint        clang-tidy and ptxas over every source, not only those that changed since all were seen
#                              (tests/tidy/clean_commits.json)
#   tests/run.sh --quick       no clang-tidy, no training, no container images, no sanitizers and no tests marked slow
#   tests/run.sh --sanitizers  also the C++ tests and the soak under address+undefined and under thread sanitizers
#   tests/run.sh --oracles     also the comparisons that need PyTorch, transformers and llama.cpp (a
#                              6 GB environment, .venv-oracles)
#   tests/run.sh --image       container images whatever else is asked for, that of CUDA too where nvcc is; fails
#                              where a machine cannot build and run them. A run without options leaves them out
#                              there, and says so at its end
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/lib.sh"
cd "$nsa_root"

quick=false oracles=false sanitizers=false image=false lint=()
for option in "$@"; do
  case $option in
    --lint) lint=(--all) ;;
    --quick) quick=true ;;
    --oracles) oracles=true ;;
    --sanitizers) sanitizers=true ;;
    --image) image=true && export NSA_IMAGE_CUDA=1 ;;
    --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) say "unknown option $option; see tests/run.sh --help" && exit 2 ;;
  esac
done
begin=$EPOCHREALTIME

run_ctest() {
  local preset=$1
  shift
  ctest --test-dir "build/$preset" --output-on-failure --parallel 2 "$@"
}

run_pytest() {
  local python=$1
  shift
  "$python" -m pytest --config-file tests/pytest.ini "$@"
}

check_model() { deploy/fetch_model.sh >/dev/null; }

# A race or an overflow shows in small cases too: what is slow by design stays out.
test_sanitized() {
  build "$1"
  export_sanitizer_options
  run_ctest "$1" --label-exclude slow
  NSA_BUILD_DIR=$nsa_root/build/$1 run_pytest .venv/bin/python tests/e2e/soak_test.py
}

# Engine and server with scalar kernels, and what is not ours as the release has it, so that a build takes minutes.
# (tsan-soak watches threads, in all of it.)
soak_sanitized() {
  build "$1" nsa_server
  export_sanitizer_options
  NSA_BUILD_DIR=$nsa_root/build/$1 run_pytest .venv/bin/python tests/e2e/soak_test.py
}

export_sanitizer_options() {
  export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
  export TSAN_OPTIONS=suppressions=$nsa_root/tests/tsan_suppressions.txt:halt_on_error=1
}

run_oracles() {
  # gcc 12 tells its optimiser that LDTILECFG reads 8 bytes, not 64: llama.cpp would end with a fault on CPUs with AMX.
  CXXFLAGS="-fno-tree-dse -fno-dse" install_requirements tests/requirements-oracles.txt "$nsa_root/.venv-oracles"
  run_pytest .venv-oracles/bin/python tests/oracles tests/parity tests/training -m "oracle or training"
}

# From a model trained from scratch to its answers; PyTorch alone, none of the oracles.
run_training() {
  training/fetch_text.sh >/dev/null
  install_requirements training/requirements.txt "$nsa_root/.venv-training"
  run_pytest .venv-training/bin/python tests/training tests/parity/training_ops_test.py -m training
}

test_packages() {
  install_packages
  install_packages tests/apt-packages.txt
  unpack_package prometheus "$nsa_root/.deps/prometheus"
}

# Why this machine cannot build and run containers; nothing where it can.
no_containers() {
  if [ "$(id -u)" -ne 0 ]; then
    echo "no root rights"
  elif ! unshare --mount --pid --net --fork mount -t tmpfs none /mnt 2>/dev/null; then
    echo "no right to make namespaces and mounts"
  elif [ "$(df --output=avail -BG /var/tmp | tail -n 1 | tr -dc 0-9)" -lt 15 ]; then
    echo "less than 15 GB free in /var/tmp"
  fi
}

test_image() {
  install_packages tests/deploy/apt-packages-image.txt
  ccache --zero-stats >/dev/null
  run_pytest .venv/bin/python tests/deploy -m image
  say "the compiler's cache in the images' builds:"
  ccache --show-stats >&2
}

run_stage "Debian packages" test_packages
run_stage "Python environment" install_requirements tests/requirements.txt "$nsa_venv"
run_stage "gateway" install_requirements deploy/image/gateway-requirements.txt "$nsa_root/.venv-gateway"
run_stage "Sources of SentencePiece and xgrammar" fetch_sources
run_stage "default model" check_model
NSA_TEST_MODEL=$(deploy/fetch_model.sh)
export NSA_TEST_MODEL NSA_BUILD_DIR=$nsa_root/build/release
run_stage "build" build release

try_stage "C++ tests" run_ctest release
if $sanitizers; then
  try_stage "address and undefined-behaviour sanitizers" test_sanitized asan-ubsan
  try_stage "thread sanitizer" test_sanitized tsan
elif ! $quick; then
  try_stage "soak under address and undefined-behaviour sanitizers" soak_sanitized asan-soak
fi
if $oracles; then
  try_stage "oracles" run_oracles
elif ! $quick; then
  try_stage "training" run_training
fi
if command -v nvcc >/dev/null; then
  try_stage "CUDA kernels for every architecture" .venv/bin/python -m tests.cuda_host.check_ptxas "${lint[@]}"
fi
left_out=""
if ! $quick && ! $image; then
  left_out=$(no_containers)
fi
if $image || { ! $quick && [ -z "$left_out" ]; }; then
  try_stage "container images" test_image
fi
if $quick; then
  try_stage "Python tests" run_pytest .venv/bin/python tests -m "not oracle and not training and not image and not slow"
else
  try_stage "clang-tidy" .venv/bin/python -m tests.tidy.clang_tidy "${lint[@]}"
  try_stage "Python tests" run_pytest .venv/bin/python tests -m "not oracle and not training and not image"
fi

[ -z "$left_out" ] || say "LEFT OUT: container images, for this machine has $left_out; --image insists"
say "== all: $(seconds_since "$begin") s"
if [ "${#failed_stages[@]}" -gt 0 ]; then
  say "FAILED: $(printf '%s; ' "${failed_stages[@]}")"
  exit 1
fi
