# The scripts source this file. It makes or updates .venv and sets $python to its interpreter.
# PYTHON names the interpreter to make .venv with (python3).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

die() {
    echo "error: $*" >&2
    exit 1
}

# The stamp is written last, so an interrupted installation has none. It changes with the
# requirements and with the folder.
stamp=$root/.venv/.complete
wanted=$( (echo "$root" && cat "$root/pyproject.toml" "$root/tests/constraints.txt") | cksum)

install() {
    local pip=("$python" -m pip install -qq --disable-pip-version-check
        --constraint "$root/tests/constraints.txt")
    # setuptools first, at its pinned version: an isolated build would take the newest
    # timm last and alone: torchvision, which it asks for, brings another PyTorch
    "${pip[@]}" setuptools &&
        "${pip[@]}" --no-build-isolation --editable "$root[bench,recipes,test]" &&
        "${pip[@]}" --no-deps timm
}

make_venv() {
    local base=${PYTHON:-python3}
    command -v "$base" >/dev/null ||
        die "no interpreter '$base'; install Python 3.10 or newer, or name it in PYTHON"
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$base" --version 2>&1) is too old; name Python 3.10 or newer in PYTHON"
    echo "making $root/.venv: PyTorch is large, this takes some minutes" >&2
    rm -rf "$root/.venv"
    if ! "$base" -m venv "$root/.venv" >&2; then
        rm -rf "$root/.venv"
        die "'$base -m venv' failed; on Debian and Ubuntu install python3-venv"
    fi
    if ! install; then
        rm -rf "$root/.venv"
        die "pip install failed (no network?); nothing was left behind, run again to retry"
    fi
}

if [[ ! -f $stamp ]] || ! "$python" -c '' 2>/dev/null; then
    make_venv
elif [[ $(<"$stamp") != "$wanted" ]]; then
    echo "updating $root/.venv to the present requirements" >&2
    install || die "pip install failed (no network?); .venv is as it was, run again to retry"
fi
[[ -f $stamp && $(<"$stamp") == "$wanted" ]] || echo "$wanted" >"$stamp"
