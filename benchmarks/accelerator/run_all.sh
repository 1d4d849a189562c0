#!/usr/bin/env bash
# All that is worth doing in some minutes on a machine with a GPU, also without network, the most valuable first.
#
#   bash benchmarks/accelerator/run_all.sh [STEP …]
#
# Steps, by default all, in this order:
#   install  the wheels in $WHEELS (see wheels.txt)
#   bench    python -m benchmarks.accelerator
#   tests    the quick tests on the GPU
#   base     python -m train.base --minutes: a sharper pocket model. Run again, it goes on where it was.
#   report   python -m train.base --report
#
# A step that fails or takes too long costs only itself. Results are copied to $OUT as they come, in few files of at
# most 15 MB: lines.jsonl, tests.txt, report.json, logs.tgz, and the model in parts (cat model.tar.?? | tar x).
set -uo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-wheels}
WORK=${WORK:-runs/accelerator}
OUT=${OUT:-$WORK/out}
BENCH_MINUTES=${BENCH_MINUTES:-4}
BENCH_FLAGS=${BENCH_FLAGS:-}
TESTS=${TESTS:-tests/diffusion tests/models tests/merge tests/train}
TEST_SECONDS=${TEST_SECONDS:-90}
TEST_PLATFORM=${TEST_PLATFORM:-cuda}
TEST_WORKERS=${TEST_WORKERS:-8}
BASE_MINUTES=${BASE_MINUTES:-8}
# The autoencoder may be a little wider, since training a concept does not run it. --gpu: fail if there is none.
BASE_FLAGS=${BASE_FLAGS:---gpu --vae-channels 48 48 80}
REPORT_SECONDS=${REPORT_SECONDS:-120}

mkdir -p "$WORK/logs" "$OUT"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
# Several processes share the card.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

say() { echo "[$SECONDS s] $*"; }

# Runs a step with its output in a log; says how it ended.
step() {
  local name=$1 limit=$2
  shift 2
  say "$name: $*"
  # SIGINT lets programs write what they have; SIGKILL follows if they do not end.
  timeout --signal=INT --kill-after=20 "$limit" "$@" >"$WORK/logs/$name.log" 2>&1
  local code=$?
  say "$name ended with code $code"
  tail -n 12 "$WORK/logs/$name.log"
  keep_logs
  return $code
}

keep_logs() { tar -czf "$OUT/logs.tgz" -C "$WORK" logs 2>/dev/null; }

# The model in parts, written beside the old ones and then moved.
keep_model() {
  [ -d "$WORK/base/model" ] || return 0
  rm -rf "$WORK/parts" && mkdir -p "$WORK/parts"
  tar -C "$WORK/base" --exclude='checkpoints' -cf - model previews vae/reconstructions.png clip/metrics.jsonl \
    vae/metrics.jsonl unet/metrics.jsonl 2>/dev/null | split -b 15000000 -d - "$WORK/parts/model.tar."
  mv -f "$WORK/parts"/* "$OUT/"
}

install() {
  ls "$WHEELS"/*.whl >/dev/null 2>&1 || { say "no wheels in $WHEELS"; return 0; }
  step install 120 "$PYTHON" -m pip install --no-index --no-deps --no-compile "$WHEELS"/*.whl ||
    step install-apart 120 "$PYTHON" -m pip install --no-index --no-deps --no-compile --upgrade \
      --target "$WORK/site" "$WHEELS"/*.whl
  if [ -d "$WORK/site" ]; then export PYTHONPATH="$PWD/$WORK/site:$PYTHONPATH"; fi
  step versions 60 "$PYTHON" -c 'import blocklora_jax, diffusers, jax, torch, tyro
print(jax.__version__, jax.devices(), torch.__version__, torch.cuda.is_available(), diffusers.__version__)'
}

bench() {
  # shellcheck disable=SC2086
  step bench $((${BENCH_MINUTES%.*} * 60 + 60)) "$PYTHON" -m benchmarks.accelerator --minutes "$BENCH_MINUTES" \
    --out "$WORK/logs/bench" $BENCH_FLAGS
  cp -f "$WORK/logs/bench/lines.jsonl" "$OUT/" 2>/dev/null
}

tests() {
  # Full fp32, as on a CPU: by default JAX and cuDNN compute fp32 products with the 10 digits of TF32.
  # shellcheck disable=SC2086
  JAX_PLATFORMS=$TEST_PLATFORM JAX_DEFAULT_MATMUL_PRECISION=highest NVIDIA_TF32_OVERRIDE=0 \
    XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_gpu_autotune_level=0" \
    step tests "$TEST_SECONDS" "$PYTHON" -m pytest -q -n "$TEST_WORKERS" -ra --tb=short -p no:cacheprovider $TESTS
  grep -E '^(FAILED|ERROR)|^E  |passed|failed|error' "$WORK/logs/tests.log" | cut -c1-300 >"$OUT/tests.txt"
}

base() {
  local flags="--minutes $BASE_MINUTES --out $WORK/base"
  if [ -e "$WORK/base/clock.json" ]; then flags="$flags --resume"; fi
  (while sleep 60; do keep_model; done) &
  local keeper=$!
  # shellcheck disable=SC2086
  step base $((${BASE_MINUTES%.*} * 60 + 120)) "$PYTHON" -m train.base $flags $BASE_FLAGS
  kill $keeper 2>/dev/null
  wait $keeper 2>/dev/null
  keep_model
}

report() {
  [ -d "$WORK/base/model" ] || { say "there is no model to report on"; return 0; }
  step report "$REPORT_SECONDS" "$PYTHON" -m train.base --report --model "$WORK/base/model" --out "$WORK/report"
  cp -f "$WORK/report/report.json" "$OUT/" 2>/dev/null
}

for name in "${@:-install bench tests base report}"; do
  for one in $name; do
    case $one in
      install | bench | tests | base | report) "$one" || say "$one did not succeed; going on" ;;
      *) say "there is no step $one" ;;
    esac
  done
done
say "results:"
ls -l "$OUT"
