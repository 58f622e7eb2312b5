#!/usr/bin/env bash
# All that only a machine with a GPU can tell, in one go: build, every test with the CUDA ones required, benchmark, and an
# avatar of each clip in ../shared/data/clips where they are. About ten minutes on a fast machine.
#
#   [PYTHON=python3] tools/gpu_check.sh [FOLDER]      results in FOLDER, default out/gpu-check
#
# PYTHON has a CUDA build of torch and the project's dependencies; nvcc is on the path. Every step runs, whatever the one
# before it said; the exit status is 0 when all of them succeeded.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/gpu-check}
python=${PYTHON:-python3}
mkdir -p "$out" || exit 2
export OMP_WAIT_POLICY=PASSIVE MANVATAR_REQUIRE_CUDA=1
failed=0

step() { # NAME COMMAND...: run it, its output in NAME.txt, a line about how it went
  local name=$1 start=$SECONDS
  shift
  if "$@" > "$out/$name.txt" 2>&1; then
    echo "$name: done in $((SECONDS - start)) s" | tee -a "$out/summary.txt"
  else
    echo "$name: FAILED after $((SECONDS - start)) s, see $out/$name.txt" | tee -a "$out/summary.txt"
    failed=1
  fi
}

: > "$out/summary.txt"
if ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
  echo "manvatar: error: $python sees no GPU through torch; run this where torch.cuda.is_available(), or set PYTHON" >&2
  exit 2
fi
step machine nvidia-smi
step build "$python" setup.py build_ext --inplace
step parity timeout 240 "$python" -m pytest -q tests/ops
step tests timeout 400 "$python" -m pytest -q --ignore=tests/ops
step benchmark "$python" -m manvatar.benchmark --json-out "$out/benchmark.json"
for clip in ../shared/data/clips/*.mp4; do
  [ -f "$clip" ] || continue
  name=$(basename "$clip" .mp4)
  step "fit_$name" "$python" -m manvatar.fit "$clip" -o "$out/$name" --max-seconds 60
done
# One of them once more, its iterations recorded as CUDA graphs: equal scores, and how much less time training takes.
printf 'base = "fast"\n\n[training]\ncuda_graph = true\n' > "$out/recorded.toml"
if [ -n "${clip:-}" ] && [ -f "$clip" ]; then
  step fit_recorded "$python" -m manvatar.fit "$clip" -o "$out/recorded" --preset "$out/recorded.toml" --max-seconds 60
fi
exit $failed
