"""``python -m plots [figure ...]``: draw figures, from the newest result files alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bench import results
from plots import style

# figure, which the module of that name draws → the result file that it shows; a pattern stands for
# many files, of which the figure gets a list
FIGURES = {
    "blur": "digits",
    "kernel_size": "kernel-size",
    "kernel_size_all": "kernel-size",
    "shapes": "shapes",
    "scaling": "scaling",
    "accuracy": "accuracy",
    "roofline": "roofline",
    "train_step": "train-step",
    "model": "predict",
    "small_maps": "small-maps",
    "meta": "meta",
    "fewshot": "fewshot/glyphs-5way-1shot-*",
    "corruptions": "experiments/corruptions",
    "field": "experiments/field",
    "shift": "experiments/shift",
    "few": "experiments/few",
    "adapt": "experiments/adapt",
}


def record_of(name: str, root: Path = results.ROOT) -> style.Record | None:
    """What ``draw`` of the figure is given; None or empty where nothing was measured."""
    source = FIGURES[name]
    return results.every(source, root) if "*" in source else results.newest(source, root)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m plots", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="figure", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--results", type=Path, default=results.ROOT, help="a folder of results")
    parser.add_argument("--out", type=Path, default=style.FOLDER, help="where the figures go")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(FIGURES):
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    damaged = False
    for name in options.names or FIGURES:
        try:
            print(_draw(name, options.results, options.out))
        except ValueError as error:
            damaged = True
            print(f"not drawn: {name}, {error}")
    if damaged:
        sys.exit(1)


def _draw(name: str, root: Path, out: Path) -> str:
    """Says what was done. ValueError: a result file is damaged."""
    record = record_of(name, root)
    if not record:
        return f"not drawn: {name}, there is no result of {FIGURES[name]}"
    module = import_module(f"plots.{name}")
    try:
        figure = module.draw(record)
    except Exception as error:  # all kinds, of rows that lack something
        raise ValueError(f"{FIGURES[name]} in {root} is damaged: {error!r}") from error
    return f"drawn: {style.save(figure, name, style.source_of(record), out)}"


if __name__ == "__main__":
    main()
