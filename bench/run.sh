#!/usr/bin/env bash
# Trains the digits network, measures throughput over kernel size, quickly, and draws both. Nothing
# that is committed changes: results and figures go to bench/local, which git ignores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/venv.sh

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor

out=$root/bench/local
"$python" -m bench digits --out "$out"
"$python" -m bench kernel-size --quick --out "$out"
"$python" -m plots --results "$out" --out "$out" | grep -v "^not drawn" # only two have results
echo
echo "results and figures: $out"
