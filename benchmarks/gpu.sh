#!/usr/bin/env bash
# All that needs a GPU: its tests, ratios of speed, the cost of each method, CIFAR-100's table.
#
#     benchmarks/gpu.sh FOLDER [RESULTS]
#
# FOLDER holds CIFAR-100 as train.parquet and test.parquet. What is done is kept in RESULTS, and the
# same command goes on where it was. The whole table is published schedules for every method: days.
# Fewer: METHODS="kd dkd at" EPOCHS=60 SEEDS=1 benchmarks/gpu.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1
results=${2:-results}
mkdir -p "$results"
python -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name())'

pytest -q tests/test_cuda.py tests/losses
python benchmarks/speed.py --steps 200 --rounds 5 | tee "$results/speed.txt"
python benchmarks/loss_cost.py --rounds 15 | tee "$results/loss_cost.txt"

# The teacher is trained once; its stage is taken over by the table.
limbeck teach cifar100 --set "data.path=$data" --set "train.epochs=${EPOCHS:-240}" \
  --out "$results/teacher"
python benchmarks/method_table.py --recipe cifar100 --seeds "${SEEDS:-3}" \
  --set "data.path=$data" --set "train.epochs=${EPOCHS:-240}" \
  --set "teacher.weights=$results/teacher/stages/teacher/best.safetensors" \
  ${METHODS:+--methods $METHODS} --out "$results/table.json" | tee "$results/table.txt"
