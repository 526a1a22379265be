"""The package as others meet it: its wheel, without Triton, its examples."""

import doctest
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import akm_triton

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / ".github" / "CONTRIBUTING.md",
    *(ROOT / "akm_triton" / room / "README.md" for room in ("meta", "surgery", "tuning")),
    *(ROOT / room / "README.md" for room in ("bench", "plots", "tests", "tests/recipes")),
]


def modules() -> list[str]:
    found = pkgutil.walk_packages(akm_triton.__path__, "akm_triton.")
    return ["akm_triton", *(module.name for module in found)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # built elsewhere: setuptools leaves files beside the source
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
    )
    if not (source / "README.md").exists():
        (source / "README.md").touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_alone(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"akm_triton", f"akm_triton-{akm_triton.__version__}.dist-info"}


def test_the_wheel_holds_the_whole_package(wheel: zipfile.ZipFile) -> None:
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "akm_triton").rglob("*")
        if path.suffix in (".py", ".cpp", ".h", ".json") or path.name == "py.typed"
    }
    packed = {name for name in wheel.namelist() if name.startswith("akm_triton/")}
    assert packed == source
    assert "akm_triton/py.typed" in packed
    assert {"akm_triton/backend/kernels.py", "akm_triton/backend/cpp/ops.cpp"} <= packed


def test_the_wheel_names_its_requirements(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    lines = wheel.read(name).decode().splitlines()
    required = {line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line}
    always = {line for line in required if "extra ==" not in line}
    assert always == {"torch>=2.11", "numpy", 'triton>=3.6; sys_platform == "linux"'}
    assert "License-Expression: MIT" in lines
    assert "Requires-Python: >=3.10" in lines


def test_it_works_without_triton() -> None:
    script = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
import akm_triton as akm

z = torch.randn(1, 2, 8, 8, requires_grad=True)
r, s = torch.rand(2, requires_grad=True), torch.zeros(2, requires_grad=True)
akm.modulate(z, r, s).sum().backward()
assert akm.AKMConv2d(2, 4, 3)(z).shape == (1, 4, 6, 6)
assert not [name for name in sys.modules if name.startswith("triton.")]
try:
    akm.modulate(z, r, s, backend="triton")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:akm_triton's CPU kernels", "-c", script],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pip install triton" in done.stdout


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    if name.rpartition(".")[2] in ("kernels", "tiles", "toeplitz", "tap_kernels", "triton"):
        pytest.importorskip("triton")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", akm_triton.__all__)
def test_public_functions_and_layers_have_an_example(name: str) -> None:
    thing = getattr(akm_triton, name)
    if not callable(thing):
        pytest.skip("a constant")
    assert ">>>" in (thing.__doc__ or "")


def blocks() -> Iterator[Any]:
    for path in PAGES:
        text = path.read_text("utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
            line = text.count("\n", 0, block.start(1))
            yield pytest.param(path, line, block[1], id=f"{path.relative_to(ROOT)}:{line + 1}")


@pytest.mark.parametrize(("page", "line", "code"), [*blocks()])
def test_examples_of_the_pages_run_by_themselves(
    page: Path, line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKM_CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    # blank lines before it, so that a traceback names the line of the page
    exec(compile("\n" * line + code, str(page), "exec"), names)
    if "target" in names:  # README's "Watch σ grow"
        assert 1.8 < names["layer"].sigma.item() < 2.2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links or page != README
    for link in links:
        target, _, anchor = link.partition("#")
        if not target.startswith("http"):
            there = page.parent / target if target else page
            assert there.exists(), link
            if anchor:
                titles = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.M)
                slugs = [re.sub(r"[^\w -]", "", x).lower().replace(" ", "-") for x in titles]
                assert anchor in slugs, link


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 180
