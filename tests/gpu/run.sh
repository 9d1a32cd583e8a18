#!/usr/bin/env bash
# Builds kernels, engine and benches on a machine with a GPU, proves the operators and the engine there, and
# measures. Needs CMake, ninja or make, a C++ compiler, CUDA and .gpu_deps (tests/gpu/pack_deps.sh); no network.
# Where there is no GPU it says so and ends with 0.
#
#   tests/gpu/run.sh                 all steps; each bounded, 20 minutes in all
#   tests/gpu/run.sh STEP...         some of: build parity sanitizer engine bench attention torch training
#   tests/gpu/run.sh --build-only    the step build, with or without a GPU
#   tests/gpu/run.sh --quick STEP... shorter benches and contexts
#
# build      configures and builds, for this machine's GPU alone
# parity     the tests of tests/cuda_host, of tests/cuda_engine and of the device, on the GPU
# sanitizer  a part of these under compute-sanitizer: memcheck, racecheck, synccheck
# engine     logits beside the CPU's, the same bits in chunks, retrieval, on generated models
# bench      nsa_bench with a generated model of a real one's sizes
# attention  NSA's chain beside our full attention, and that beside the card's bandwidth
# torch      PyTorch's flash attention on the same shapes
# training   NSA's forward and backward for training beside PyTorch's flash attention
#
# Environment: OUT, the folder of results (build/gpu): summary.json and what it is made of, at most nine files.
# NSA_CUDA_ARCHITECTURES instead of the GPU's own. Ends with 1 where a step fails.
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$script")/../.."

root=$PWD
out=$(realpath -m "${OUT:-build/gpu}")
build=$root/build/gpu/build
deps=$root/.gpu_deps
all_steps=(build parity sanitizer engine bench attention torch training)
declare -A limits=([build]=360 [parity]=240 [sanitizer]=300 [engine]=240 [bench]=180 [attention]=150 [torch]=150
  [training]=150)
total_s=1200
skipped=77

say() { printf '%s\n' "$*" >&2; }

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# Without a GPU, as --build-only may be: Hopper.
architecture() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n1 | tr -d .) ||
    capability=""
  printf '%s-real\n' "${capability:-90}"
}

# A step's functions run in a process of their own, so that it can be timed and ended.
step_build() {
  if [ ! -d "$deps" ]; then
    command -v dpkg-query >/dev/null || {
      say "no $deps: fill it with tests/gpu/pack_deps.sh on a Debian machine and bring it along"
      return 1
    }
    tests/gpu/pack_deps.sh
  fi
  local generator=() absl
  ! command -v ninja >/dev/null || generator=(-G Ninja)
  absl=$(dirname "$(find "$deps" -name abslConfig.cmake)")
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release \
    -DNSA_BUILD_CUDA=ON -DNSA_BUILD_CPU=OFF -DNSA_BUILD_TOKENIZERS=OFF -DNSA_BUILD_SERVER=OFF \
    "-DNSA_CUDA_ARCHITECTURES=${NSA_CUDA_ARCHITECTURES:-$(architecture)}" \
    "-Dabsl_DIR=$absl" "-DGTest_DIR=$absl/../GTest" \
    "-Dnlohmann_json_DIR=$deps/share/cmake/nlohmann_json"
  cmake --build "$build" --parallel "${NSA_BUILD_JOBS:-$(nproc)}" \
    --target gpu_programs nsa_eval nsa_bench nsa_kernels_c
}

step_parity() { python3 tests/gpu/parity.py "$build" "--json=$out/parity.json"; }

# Every buffer ends where its test says (test_memory.h). A sanitizer slows a kernel down a hundredfold, so that
# each takes one test of several, another one each.
step_sanitizer() {
  command -v compute-sanitizer >/dev/null || return "$skipped"
  local tool test index=0 status=0 failed=0
  for tool in memcheck racecheck synccheck; do
    for test in "$build"/gpu_*_test; do
      [[ $test != */gpu_cuda_@(ahead|model|tier)_test ]] || continue # whole models: the same kernels, thousands of launches
      status=0
      NSA_GPU_EXACT_BUFFERS=1 GTEST_TOTAL_SHARDS=8 GTEST_SHARD_INDEX=$index timeout 60 \
        compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 "$test" --gtest_brief=1 ||
        status=$?
      say "$tool $(basename "$test"): $status"
      [ "$status" -eq 0 ] || failed=1
    done
    index=$((index + 1))
  done
  return "$failed"
}

step_engine() {
  python3 -c 'import numpy' 2>/dev/null || return "$skipped"
  local contexts=4096,16384,65536
  ! $quick || contexts=4096
  python3 -m tests.gpu.engine_check "--build_dir=$build" "--contexts=$contexts" "--json=$out/engine.json"
}

step_bench() {
  python3 -c 'import numpy' 2>/dev/null || return "$skipped"
  local help
  help=$("$build/nsa_bench" --helpfull || true) # which ends with 1
  [[ $help == *--device* ]] || return "$skipped"
  local model=$build/sized contexts=8192,65536 batch
  ! $quick || contexts=8192
  [ -e "$model/model.safetensors" ] || python3 -m tests.gpu.generated_models "$model"
  for batch in 1 8; do
    "$build/nsa_bench" "--model=$model" --device=cuda "--context=$contexts" "--batch=$batch" \
      --kv_cache_dtype=bf16 --max_step_tokens=4096 --json
  done | tee "$out/bench.jsonl"
}

step_attention() {
  [ -x "$build/gpu_attention_bench" ] || return "$skipped"
  local options=()
  ! $quick || options=(--quick)
  "$build/gpu_attention_bench" "${options[@]}" | tee "$out/attention.json"
}

step_torch() {
  python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || return "$skipped"
  local options=()
  ! $quick || options=(--contexts 8192 --prefills 8192)
  python3 tests/gpu/torch_peer.py "--json=$out/torch.json" "${options[@]}"
}

step_training() {
  python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || return "$skipped"
  local contexts=8192,16384,32768,65536
  ! $quick || contexts=8192
  NSA_KERNELS_LIBRARY=$build/libnsa_kernels_c.so python3 -m tests.bench.training_speed --device=cuda \
    "--contexts=$contexts" --q_heads=64 --kv_heads=4 --dim_k=128 --dim_v=128 "--json=$out/training.json"
}

quick=${NSA_GPU_QUICK:-false} build_only=false steps=()
while [ $# -gt 0 ]; do
  case $1 in
    --help) sed -n '2,25s/^# \{0,1\}//p' "$script" && exit 0 ;;
    --quick) quick=true ;;
    --build-only) build_only=true ;;
    --step) # of this script itself: one step, here
      "step_$2"
      exit
      ;;
    *)
      [ -n "${limits[$1]:-}" ] || { say "unknown step $1; see tests/gpu/run.sh --help" && exit 2; }
      steps+=("$1")
      ;;
  esac
  shift
done
[ "${#steps[@]}" -gt 0 ] || steps=("${all_steps[@]}")

if $build_only; then
  steps=(build)
elif ! has_gpu; then
  say "no GPU: skipped"
  exit 0
fi
# Where CUDA's installer leaves it, which is not always on PATH.
command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
if ! command -v nvcc >/dev/null; then
  say "no nvcc: skipped"
  exit 0
fi
export PATH OUT=$out NSA_GPU_QUICK=$quick

mkdir -p "$out"
: >"$out/steps.tsv"
: >"$out/log.txt"
begin=$SECONDS
for step in "${steps[@]}"; do
  limit=${limits[$step]} left=$((total_s - (SECONDS - begin)))
  [ "$limit" -le "$left" ] || limit=$left
  say "== $step (at most $limit s)"
  started=$EPOCHREALTIME status=0
  if [ "$limit" -gt 0 ]; then
    timeout --kill-after=10 "$limit" "$script" --step "$step" 2>&1 | tee -a "$out/log.txt" >&2 ||
      status=${PIPESTATUS[0]}
  else
    status=124
  fi
  took=$(((${EPOCHREALTIME/[.,]/} - ${started/[.,]/}) / 1000))
  printf '%s\t%d\t%d.%03d\n' "$step" "$status" $((took / 1000)) $((took % 1000)) >>"$out/steps.tsv"
  # Nothing runs without programs.
  [ "$step" != build ] || [ "$status" -eq 0 ] || break
done
if command -v python3 >/dev/null; then
  python3 tests/gpu/report.py "$out"
elif cut -f2 "$out/steps.tsv" | grep -qvE "^(0|$skipped)\$"; then
  exit 1
fi
