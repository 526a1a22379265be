"""The recipes that take a model out of Python run as they stand."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporters' own doing


def test_onnx(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from tests.recipes import to_onnx

    to_onnx.main(tmp_path / "model.onnx")


@pytest.mark.whole
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_cpp(tmp_path: Path) -> None:
    from tests.recipes import to_cpp

    to_cpp.main(tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2") as package:
        libraries = [name for name in package.namelist() if name.endswith(".so")]
        compiled = [package.extract(name, tmp_path) for name in libraries]
    assert compiled
    for path in (tmp_path / "main", *compiled):
        done = subprocess.run(["ldd", path], capture_output=True, text=True, check=True)
        assert "libtorch" in done.stdout and "libpython" not in done.stdout
