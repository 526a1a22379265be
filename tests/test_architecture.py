"""The architecture: imports run one way, and importing the package costs next to nothing."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOPS = ("akm_triton", "reference", "bench", "plots", "tests")

# A module imports from its own level and from those below it, lazily or not.
LEVELS = (
    ("akm_triton",),  # the public names
    ("akm_triton.meta",),
    ("akm_triton.tuning", "akm_triton.surgery"),
    ("akm_triton.conditioned", "akm_triton.pooling", "akm_triton.lazy"),
    ("akm_triton.transposed",),
    ("akm_triton.layers",),
    ("akm_triton.blurred",),
    ("akm_triton.functional",),
    ("akm_triton.arguments",),
    ("akm_triton.modulation",),
    ("akm_triton.passes",),
    ("akm_triton.ops", "akm_triton.axis_ops", "akm_triton.gated_taps"),
    ("akm_triton.autograd", "akm_triton.batching"),
    ("akm_triton.backend",),
    ("akm_triton.launch",),
    ("akm_triton.gaussian", "akm_triton.borders"),
    ("akm_triton.sharding", "akm_triton.flops"),
    ("akm_triton.cache", "akm_triton.files", "akm_triton.tracing", "akm_triton._version"),
)


def modules(*tops: str) -> dict[str, Path]:
    """Every module of these packages, by name."""
    named = {}
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            named[".".join(parts).removesuffix(".__init__")] = path
    return named


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports anywhere: at the top, in a function, or by
    ``import_module`` of a constant."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called == "import_module" and isinstance(first, ast.Constant):
                names.append(str(first.value))
            elif called == "import_module" and isinstance(first, ast.JoinedStr):
                pattern = "".join(
                    re.escape(part.value) if isinstance(part, ast.Constant) else r"[\w.]+"
                    for part in first.values
                )
                names += [name for name in known if re.fullmatch(pattern, name)]
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            yield name


@functools.cache
def graph(*tops: str) -> dict[str, set[str]]:
    known = modules(*tops)
    return {
        name: set(imported(ast.parse(path.read_text("utf-8")), known)) - {name}
        for name, path in known.items()
    }


def reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    """What ``start`` imports, directly or not."""
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += edges[name]
    return seen


def level(module: str) -> int:
    """The place in LEVELS: of the longest name that the module begins with."""
    rooms = {room: i for i, level in enumerate(LEVELS) for room in level}
    while module not in rooms:
        module = module.rpartition(".")[0]
    return rooms[module]


def test_no_module_imports_itself_by_a_detour() -> None:
    edges = graph(*TOPS)
    assert len(edges) > 60 and sum(map(len, edges.values())) > 150
    assert [name for name in edges if name in reachable(edges, name)] == []


def test_a_ring_would_be_seen() -> None:
    known = {"a": Path(), "a.b": Path(), "a.c": Path()}
    lazy = ast.parse(
        "def f():\n    from a import b\n    import_module('a.c')\n    import_module(f'a.{x}')"
    )
    assert set(imported(lazy, known)) == {"a.b", "a.c"}
    assert reachable({"a": {"b"}, "b": {"c"}, "c": {"a"}}, "a") == {"a", "b", "c"}


@pytest.mark.parametrize("module", modules("akm_triton"))
def test_imports_run_down_the_floors(module: str) -> None:
    if module == "akm_triton":
        return  # on top of all
    for name in graph("akm_triton")[module]:
        assert level(name) >= level(module), f"{module} is below {name}"
        assert name != "akm_triton", "what is inside takes nothing from the face"


def test_who_imports_whom() -> None:
    edges = graph(*TOPS)
    for name, targets in edges.items():
        tops = {target.partition(".")[0] for target in targets} - {name.partition(".")[0]}
        allowed = {
            "akm_triton": set(),
            "reference": set(),
            "bench": {"akm_triton", "reference"},
            "plots": {"akm_triton", "bench"},
            "tests": set(TOPS),
        }[name.partition(".")[0]]
        assert tops <= allowed, f"{name} imports {sorted(tops - allowed)}"


def test_the_top_level_holds_these_and_nothing_else() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    tops = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} == {
        *TOPS, "LICENSE", "README.md", "pyproject.toml",
    }  # fmt: skip


IMPORT = """
import sys
import time
import torch

before, start = set(sys.modules), time.process_time()
import akm_triton
print(time.process_time() - start, *sorted(set(sys.modules) - before))
"""


def test_importing_the_package_imports_little_else() -> None:
    """In a process that has PyTorch already."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = done.stdout.split()[1:]
    assert "akm_triton.layers" in names
    assert len(names) < 60, names
    heavy = (
        "torch._dynamo",
        "torch.export",
        "torch.distributed.tensor",
        "triton",
        "sympy",
        "matplotlib",
    )
    assert [n for n in names if n.startswith(heavy)] == []
