"""``python -m plots``: redraw every figure from the newest result files, and only from them."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import results
from plots.style import FOLDER, save

# figure, which a module draws → the sweep whose rows it shows
FIGURES = {
    "blur": "digits",
    "kernel_size": "kernel-size",
    "shapes": "shapes",
    "scaling": "scaling",
    "accuracy": "accuracy",
    "roofline": "roofline",
    "train_step": "train-step",
    "model": "model",
    "small_maps": "small-maps",
    "meta": "meta",
}
FEWSHOT = "fewshot/glyphs-5way-1shot-*"  # one file a run, one figure of all


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m plots", description=__doc__)
    parser.add_argument("--results", type=Path, default=results.ROOT, help="folder of results")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the figures")
    options = parser.parse_args()
    found: dict[str, Any] = {
        name: results.newest(sweep, options.results) for name, sweep in FIGURES.items()
    }
    found["fewshot"] = results.every(FEWSHOT, options.results)
    for name, record in found.items():
        if not record:
            print(f"not drawn: {name}, of which there is no result")
            continue
        for path in save(import_module(f"plots.{name}").draw(record), name, options.out):
            print(f"drawn: {path}")


if __name__ == "__main__":
    main()
