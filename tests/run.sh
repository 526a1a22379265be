#!/usr/bin/env bash
# The tests; arguments go to pytest (tests/run.sh -k border, tests/run.sh tests/test_taps.py).
# Large sweeps are sampled: tests/run.sh --all runs every case (tests/README.md).
#
# Triton decides when it is imported whether it interprets kernels, so there are two processes:
# tests/interpreter with TRITON_INTERPRET=1, all the rest without.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source tests/venv.sh

# Caches outlive the code that filled them.
scratch=$(mktemp -d) || die "no temporary directory"
trap 'rm -rf "$scratch"' EXIT
export TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor
export TORCHINDUCTOR_FORCE_DISABLE_CACHES=1
# One thread a worker, or the workers fight over the cores.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
workers=$("$python" -c 'import os; print(min(4, os.cpu_count() or 1))')

# A path in the arguments belongs to one of the two; options go to both.
options=() interpreted=() compiled=()
for argument in "$@"; do
    case ${argument#./} in
        tests | tests/) ;; # both, as without it
        tests/interpreter*) interpreted+=("$argument") ;;
        tests/*) compiled+=("$argument") ;;
        *) options+=("$argument") ;;
    esac
done
named=$((${#interpreted[@]} + ${#compiled[@]}))

failed=0
summary=()
run() { # title, then pytest's arguments
    local title=$1 status
    shift
    echo "== $title"
    "$python" -m pytest -q -n "$workers" --dist worksteal "$@" ${options[@]+"${options[@]}"}
    status=$?
    case $status in
        0) summary+=("$title: passed") ;;
        5) summary+=("$title: nothing selected") ;;
        *) summary+=("$title: FAILED") && failed=1 ;;
    esac
}

if ((named == 0)); then
    run "compiled and plain" tests --ignore=tests/interpreter
    if [[ -d tests/interpreter ]]; then
        TRITON_INTERPRET=1 run "interpreter" tests/interpreter
    fi
else
    ((${#compiled[@]})) && run "compiled and plain" "${compiled[@]}"
    ((${#interpreted[@]})) && TRITON_INTERPRET=1 run "interpreter" "${interpreted[@]}"
fi

echo "== summary"
printf '%s\n' "${summary[@]}"
exit $failed
