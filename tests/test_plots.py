"""The figures: they show the numbers of the committed result files, and nothing else."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from bench import providers, results
from plots import style
from plots.__main__ import FIGURES, main, record_of

PNGS = sorted(path.stem for path in style.FOLDER.glob("*.png"))
MEASURED = [name for name in FIGURES if record_of(name)]
# shown as they stand in the file; what the others show is worked out here, in a test of their own
AS_MEASURED = ["kernel_size_all", "scaling", "accuracy", "roofline", "train_step", "model", "meta"]
BY_PROVIDER = ["kernel_size_all", "scaling", "accuracy"]


def figure_of(name: str, record: Any = None) -> Figure:
    figure: Figure = import_module(f"plots.{name}").draw(record or record_of(name))
    plt.close(figure)
    return figure


def rows_of(name: str) -> list[dict[str, Any]]:
    record: Any = record_of(name)
    return [row for row in record["rows"] if row["status"] == "ok"]


def drawn(figure: Figure) -> list[float]:
    """Heights and positions of all points and bars; of roofs and annotations, nothing."""
    found: list[float] = []
    for axis in figure.axes:
        for line in axis.get_lines():
            if len(line.get_xdata()) < 50:
                found += [*line.get_xdata(), *line.get_ydata()]
        found += [
            bar.get_height()
            for bars in axis.containers
            for bar in bars
            if isinstance(bar, Rectangle)
        ]
    return [float(x) for x in found]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield float(value)


@pytest.mark.parametrize("name", AS_MEASURED)
def test_a_figure_shows_numbers_of_its_file(name: str) -> None:
    record: Any = record_of(name)
    known = set(numbers(record["rows"]))
    known |= {row["operations"] / row["bytes"] for row in record["rows"] if "operations" in row}
    values = drawn(figure_of(name))
    assert len(values) > 10
    assert [x for x in values if x not in known] == []


@pytest.mark.parametrize("name", BY_PROVIDER)
def test_every_provider_that_was_measured_is_shown(name: str) -> None:
    figure = figure_of(name)
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    without = {providers.COPY.name} if name == "scaling" else set()
    assert shown == {row["provider"] for row in rows_of(name)} - without


def ratios_by_hand(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[float]]:
    """Point → how many times as long the best rival takes, at p50, at worst and at best."""
    points: dict[tuple[Any, ...], dict[str, dict[str, float]]] = {}
    for row in rows:
        point = (*row["shape"], row["layout"], row["dtype"], row["kernel"], row["direction"])
        points.setdefault(point, {})[row["provider"]] = row
    found = {}
    for point, by_name in points.items():
        ours = by_name.pop("akm_triton")
        rivals = [r for name, r in by_name.items() if "one σ" not in name and name != "copy"]
        best = sorted(rivals, key=lambda row: row["p50"])[0]
        found[point] = [
            best["p50"] / ours["p50"], best["p20"] / ours["p80"], best["p80"] / ours["p20"]
        ]  # fmt: skip
    return found


def test_kernel_size_shows_ratios_to_the_best_rival_of_the_same_work() -> None:
    wanted = ratios_by_hand(rows_of("kernel_size"))
    shown: dict[tuple[Any, ...], list[float]] = {}
    axes = figure_of("kernel_size").axes
    for axis, direction in zip(axes, ("forward", "forward+backward"), strict=True):
        for bars in axis.containers:
            line, _, (collection,) = bars.lines  # type: ignore[attr-defined]
            h, w, c, n, dtype = re.findall(r"float\d+|\d+", str(bars.get_label()))
            ends = [segment[:, 1] for segment in collection.get_segments()]
            for kernel, ratio, (low, high) in zip(*line.get_data(), ends, strict=True):
                map_ = (int(n), int(c), int(h), int(w), "nchw", dtype)
                shown[(*map_, int(kernel), direction)] = [ratio, low, high]
        of_panel = [r for point, (r, _, _) in wanted.items() if point[-1] == direction]
        faster = f"{sum(r > 1 for r in of_panel)} of {len(of_panel)}"
        assert f"{direction}: akm_triton is faster at {faster} points" == axis.get_title()
    assert shown.keys() == wanted.keys()
    for point, ratios in wanted.items():
        np.testing.assert_allclose(shown[point], ratios, rtol=1e-12)


def test_shapes_show_ratios_in_the_line_of_their_map() -> None:
    rows = rows_of("shapes")
    by_hand = {point: middle for point, (middle, _, _) in ratios_by_hand(rows).items()}
    wanted = set()
    for row in rows:
        point = (*row["shape"], row["layout"], row["dtype"], row["kernel"], row["direction"])
        wanted |= {
            (network, row["shape"][1], row["shape"][2], row["layout"], row["direction"],
             round(by_hand[point], 12))
            for network in row["networks"]
        }  # fmt: skip
    axes = figure_of("shapes").axes
    ticks = zip(axes[0].get_yticks(), axes[0].get_yticklabels(), strict=True)
    labels = {place: text.get_text() for place, text in ticks}
    shown = set()
    for axis, direction in zip(axes, ("forward", "forward+backward"), strict=True):
        for line in axis.get_lines():
            if str(line.get_label()).startswith("_"):
                continue  # the line at 1
            layout = str(line.get_label()).split(",")[0]
            for ratio, place in zip(*line.get_data(), strict=True):
                channels, side = labels[place].removesuffix("²").split(" × ")
                network = next(labels[p] for p in range(place, -1, -1) if "×" not in labels[p])
                shown.add((network, int(channels), int(side), layout, direction, round(ratio, 12)))
        mean = float(np.exp(np.mean([np.log(r) for p, r in by_hand.items() if p[-1] == direction])))
        assert axis.get_title() == f"{direction}: geometric mean {mean:.2f}"
    assert shown == wanted


def points(axis: Axes) -> list[list[float]]:
    return [list(line.get_ydata()) for line in axis.get_lines() if line.get_linestyle() == "None"]


def test_blur_shows_every_channel() -> None:
    from plots import blur

    record: Any = record_of("blur")
    sigmas, gates = figure_of("blur").axes[-2:]
    assert points(sigmas) == [sorted(layer["end"]["sigma"]) for layer in record["layers"]]
    assert points(gates) == [sorted(layer["end"]["gate"]) for layer in record["layers"]]
    assert blur.photographs().shape == (2, 3, *blur.SIZE)


def test_fewshot_shows_every_run() -> None:
    runs: Any = record_of("fewshot")
    groups: dict[tuple[str, str], list[Any]] = {}
    for run in runs:
        groups.setdefault((run["settings"]["layer"], run["settings"]["adapt"]), []).append(run)
    by_axis = {axis.get_ylabel() or axis.get_xlabel(): axis for axis in figure_of("fewshot").axes}

    curves = by_axis["validation accuracy (%), mean of seeds"].get_lines()
    means = [
        np.mean([[100 * row["val"] for row in run["rows"]] for run in group], axis=0).tolist()
        for group in groups.values()
    ]
    shown = sorted(list(line.get_ydata()) for line in curves)
    np.testing.assert_allclose(shown, sorted(means))

    ends = by_axis["test accuracy (%) with its 95 % interval, a point for each seed"].containers
    found = []
    for container in ends:
        point, _, (interval,) = container.lines  # type: ignore[attr-defined]
        (segment,) = interval.get_segments()
        found.append([point.get_xdata()[0], *segment[:, 0]])
    accuracies = [(100 * run["accuracy"]["mean"], 100 * run["accuracy"]["ci95"]) for run in runs]
    np.testing.assert_allclose(sorted(found), sorted([m, m - ci, m + ci] for m, ci in accuracies))

    learned = [group for (layer, _), group in groups.items() if layer == "akm"]
    sigmas = [
        sorted(x for run in group for x in run["layers"][layer]["end"]["sigma"])
        for group in learned
        for layer in range(len(group[0]["layers"]))
    ]
    assert sorted(points(by_axis["learned σ (pixels)"])) == sorted(sigmas)


def test_the_model_says_that_it_predicts() -> None:
    title = " ".join(figure_of("model").get_suptitle().split())
    assert "Predicted from machine code by a model" in title
    assert "Nothing here was measured. Calibration: a copy kernel comes out at" in title
    record: Any = copy.deepcopy(record_of("model"))
    record["rows"][0] |= {"status": "ok", "measured_of_copy": 0.25}
    figure = figure_of("model", record)
    title = figure.get_suptitle()
    assert "Predicted" in title and "measured on" in title and "Calibration" in title
    measured = [
        list(line.get_ydata())
        for axis in figure.axes
        for line in axis.get_lines()
        if str(line.get_label()).endswith("measured")
    ]
    assert measured == [[0.25]]


def test_numbers_stand_at_the_bars_of_a_training_step() -> None:
    rows = rows_of("train_step")
    times, memory = figure_of("train_step").axes
    assert sorted(text.get_text() for text in times.texts) == sorted(
        f"{row['p50'] * 1000:.0f}" for row in rows
    )
    assert sorted(text.get_text() for text in memory.texts) == sorted(
        f"{row['saved_bytes'] / 1048576:.0f}" for row in rows if row.get("saved_bytes")
    )
    assert "MiB" in memory.get_title()


def test_small_maps_are_shown_beside_the_identity() -> None:
    rows = [
        {"shape": [n, 8, 7, 7], "dtype": "float16", "layout": "nchw", "op": op, "provider": name,
         "p50": 1e-6 * (n + len(name)), "status": "ok"}
        for n in (32, 256)
        for op in ("blur", "blur_backward")
        for name in ("akm_triton", "identity")
    ]  # fmt: skip
    record = {"device": "some", "threads": 1, "torch": "2", "date": "2026-01-01", "rows": rows}
    figure = figure_of("small_maps", record)
    shown = [x for axis in figure.axes for line in axis.get_lines() for x in line.get_xdata()]
    assert sorted(shown) == sorted(row["p50"] for row in rows)


def looks(figure: Figure) -> dict[str, tuple[Any, ...]]:
    handles = figure.axes[0].get_legend_handles_labels()
    lines = ((label, getattr(h, "lines", [h])[0]) for h, label in zip(*handles, strict=True))
    return {n: (x.get_color(), x.get_marker(), x.get_linestyle()) for n, x in lines}


def test_every_provider_of_the_registry_has_a_look_of_its_own() -> None:
    names = [providers.OURS.name, providers.COPY.name, *(p.name for p in providers.RIVALS)]
    found = [style.look(name) for name in names]
    assert len({(x["color"], x["marker"], str(x["linestyle"])) for x in found}) == len(names)
    assert {p.name for p in providers.RIVALS} <= set(style.LOOKS)


def test_a_look_goes_by_the_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = looks(figure_of("kernel_size_all"))
    new = providers.Provider("brand new", providers.conv2d)
    kept = [p for p in reversed(providers.RIVALS) if p.name != "FFT"]
    monkeypatch.setattr(providers, "RIVALS", (new, *kept))
    assert "FFT" in before and looks(figure_of("kernel_size_all")) == before
    assert style.look("brand new") == style.look("brand new") != style.look("FFT")


@pytest.mark.parametrize("name", BY_PROVIDER)
def test_a_result_with_a_provider_that_is_gone_is_drawn(name: str) -> None:
    record: Any = copy.deepcopy(record_of(name))
    for row in record["rows"]:
        if row["provider"] == "FFT":
            row["provider"] = "gone"
    before, after = looks(figure_of(name)), looks(figure_of(name, record))
    del before["FFT"]
    assert after.pop("gone") not in before.values()
    assert after == before


# photographs, lines and dots; the rest is saved in the same way
@pytest.mark.parametrize("name", ["blur", "shapes", "fewshot"])
def test_a_figure_drawn_again_is_the_same_file(name: str, tmp_path: Path) -> None:
    one, other = (
        style.save(figure_of(name), name, "here", tmp_path / folder).read_bytes()
        for folder in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize("name", MEASURED)
def test_a_committed_figure_is_of_the_newest_result(name: str) -> None:
    record = record_of(name)
    assert record
    with Image.open(style.FOLDER / f"{name}.png") as image:
        assert image.text["Source"] == style.source_of(record)  # type: ignore[attr-defined]
        assert image.width <= 2 * 830  # twice a column of a README


def test_all_committed_figures_are_known() -> None:
    assert PNGS == sorted(MEASURED)
    assert not list(style.FOLDER.glob("*.svg"))


def test_the_gallery_shows_every_figure_with_its_file_and_command() -> None:
    gallery = (style.FOLDER / "README.md").read_text("utf-8")
    sections = {
        match: section
        for section in re.split(r"^## ", gallery, flags=re.MULTILINE)
        for match in re.findall(r"\]\((\w+)\.png\)", section)
    }
    assert sorted(sections) == PNGS
    for name, section in sections.items():
        record: Any = record_of(name)
        many = isinstance(record, list)
        device = (record[0] if many else record)["device"]
        file = results.ROOT / results.slug(device) / f"{FIGURES[name]}.json"
        (link,) = re.findall(r"\]\((\.\./bench/results/[^)]+)\)", section)
        assert (style.FOLDER / link).resolve() == (file.parent if many else file)
        assert f"`python -m plots {name}`" in section
        assert device in section


def test_the_command_draws_what_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["roofline", "--out", str(tmp_path / "figures")])
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["roofline.png"]
    assert "roofline.png" in capsys.readouterr().out
    main(["--results", str(tmp_path), "--out", str(tmp_path / "none")])
    out = capsys.readouterr().out
    assert "not drawn: roofline, there is no result of roofline" in out
    assert len(out.splitlines()) == len(FIGURES) and not (tmp_path / "none").exists()
    with pytest.raises(SystemExit):
        main(["roofline", "unheard"])
    assert "no figure unheard" in capsys.readouterr().err


def test_a_damaged_result_is_named_and_the_others_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = {path.parent for path in results.ROOT.glob("*/meta.json")}
    folder = tmp_path / "results" / source.name
    (folder / "fewshot").mkdir(parents=True)
    runs = sorted((source / "fewshot").glob("glyphs-5way-1shot-*.json"))
    for path in (*runs, source / "meta.json", source / "scaling.json"):
        shutil.copy(path, folder / path.relative_to(source))
    one = folder / "fewshot" / runs[3].name
    one.write_text(one.read_text()[:-100])
    scaling = folder / "scaling.json"
    record = json.loads(scaling.read_text())
    del record["rows"][0]["p50"]
    scaling.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="1"):
        main(["fewshot", "scaling", "meta", "--results", str(tmp_path / "results"),
              "--out", str(tmp_path / "figures")])  # fmt: skip
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"not drawn: fewshot, {one} cannot be read: ")
    assert (
        second
        == f"not drawn: scaling, scaling in {tmp_path / 'results'} is damaged: KeyError('p50')"
    )
    assert third.startswith("drawn: ") and os.listdir(tmp_path / "figures") == ["meta.png"]
