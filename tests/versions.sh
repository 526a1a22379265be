#!/usr/bin/env bash
# Tries other versions of Python, torch and triton: for each line below it makes a virtual environment
# and runs a quick part of the suite in it. It writes the table of tests/versions.md; the notes below
# that table are written by hand.
#
#   tests/versions.sh                          every line
#   tests/versions.sh "3.12 2.14.1 3.8.0"      the lines given; the other rows of the table stay
#
# SCRATCH         keeps the environments between runs (/tmp/akm_triton-versions)
# CUDA_LIBRARIES  the folder site-packages/nvidia of an environment with a CUDA torch. PyTorch from
#                 PyPI brings some GB of CUDA libraries, and does not start without them. If this is
#                 set, they are linked from there, and only torch and triton are installed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Python, torch, triton, and other packages: the interpreter of Triton 3.6 needs an older NumPy, and
# torch 2.15 a library that those of CUDA_LIBRARIES may be too old for
lines=(
    "3.10 2.11.0 3.6.0"
    "3.11 2.11.0 3.6.0 numpy<2.4"
    "3.11 2.13.0 3.7.1"
    "3.11 2.14.1 3.8.0"
    "3.11 2.15.0 3.9.0 nvidia-nvshmem-cu13==3.7.2"
    "3.12 2.14.1 3.8.0"
    "3.13 2.15.0 3.9.0 nvidia-nvshmem-cu13==3.7.2"
    "3.14 2.15.0 3.9.0 nvidia-nvshmem-cu13==3.7.2"
)
(($#)) && lines=("$@")

# The quick part: taps, layers, every transform of modulate on both paths, the kernels and their
# gradients in the interpreter, machine code, and launches by Triton's own launcher.
plain=(tests/test_taps.py tests/test_layers.py tests/test_transforms.py tests/test_codegen.py
    tests/test_launches.py -k "test_taps or test_launches or test_layers or (capability and modulate) or unknown_version or hopper_channels_last")
interpreter=(tests/interpreter/test_{autograd,kernels,transforms}.py
    -k "order or one_node or blur_and_gradients or single_axes or (capability and modulate)")

scratch=${SCRATCH:-/tmp/akm_triton-versions}
table=tests/versions.md
mkdir -p "$scratch"
export TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

# torch and triton in the environment $1, and what the tests import
install() { # folder, torch, triton, others
    local pip=("$1/bin/python" -m pip install -q --disable-pip-version-check)
    if [[ -n ${CUDA_LIBRARIES:-} ]]; then
        "${pip[@]}" filelock fsspec jinja2 networkx "setuptools<82" sympy "typing-extensions>=4.13" &&
            "${pip[@]}" --no-deps "torch==$2" "triton==$3" &&
            cp -as "$(realpath "$CUDA_LIBRARIES")" "$(echo "$1"/lib/python*/site-packages)/nvidia"
    else
        "${pip[@]}" "torch==$2" "triton==$3" "setuptools<82"
    fi && "${pip[@]}" numpy scipy "pytest>=9" hypothesis && { [[ -z $4 ]] || "${pip[@]}" --no-deps $4; }
}

run() { # environment, then pytest's arguments; prints "12 passed, 1 skipped" and what failed
    local folder=$1 output status failed
    shift
    rm -rf "$folder/cache"
    TRITON_CACHE_DIR=$folder/cache/triton TORCHINDUCTOR_CACHE_DIR=$folder/cache/inductor \
        "$folder/bin/python" -m pytest -q -p no:cacheprovider "$@" >"$folder/pytest.log" 2>&1
    status=$?
    cat "$folder/pytest.log" >&2
    # at most six names
    output=$(tail -n 1 "$folder/pytest.log" | sed -E 's/ in [0-9.]+s.*//; s/, [0-9]+ deselected//')
    failed=$(sed -nE 's/^FAILED [^:]*::(.*\]|[^ ]*)( - .*)?$/`\1`/p' "$folder/pytest.log" | sed '7{s/.*/…/;q}' | paste -sd " ")
    ((status == 0 || status == 1)) && echo "$output${failed:+: $failed}" || echo "did not run, status $status"
}

try() { # Python, torch, triton, others; prints a row of the table
    local folder=$scratch/python$1-torch$2-triton$3 row="| $1 | $2 | $3 | $(date -u +%F) |"
    command -v "python$1" >/dev/null || { echo "$row no python$1 on this machine | |" && return; }
    if [[ ! -f $folder/installed ]]; then
        rm -rf "$folder"
        "python$1" -m venv "$folder" >&2 && install "$folder" "$2" "$3" "${4:-}" >&2 &&
            touch "$folder/installed"
    fi
    [[ -f $folder/installed ]] || { echo "$row could not be installed | |" && return; }
    echo "$row $(run "$folder" "${plain[@]}") | $(TRITON_INTERPRET=1 run "$folder" "${interpreter[@]}") |"
}

for line in "${lines[@]}"; do
    read -r python torch triton others <<<"$line"
    echo "== Python $python, torch $torch, triton $triton" >&2
    row=$(try "$python" "$torch" "$triton" "$others")
    key="| $python | $torch | $triton |"
    notes=$(sed -n '/^## /,$p' "$table" 2>/dev/null)
    rows=$( (grep '^| [0-9]' "$table" 2>/dev/null | grep -vF "$key"; echo "$row") | sort -V)
    {
        cat <<EOF
# Versions that were tried

On Linux, on a CPU, with the quick part of the suite that \`tests/versions.sh\` names. That script writes
this table.

| Python | torch | triton | date | compiled and plain | interpreter |
|---|---|---|---|---|---|
$rows
EOF
        [[ -z $notes ]] || printf '\n%s\n' "$notes"
    } >"$table.new"
    mv "$table.new" "$table"
done
cat "$table"
