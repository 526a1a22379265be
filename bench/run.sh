#!/usr/bin/env bash
# Trains the digits network, measures throughput over kernel size and redraws the figures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/venv.sh

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor

"$python" -m bench digits
"$python" -m bench kernel-size --quick
"$python" -m plots
echo
echo "measurements: $root/bench/results"
echo "figures: $root/plots"
