"""The frame: what a protocol says, which runs are done, what their files hold."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.experiments import command, outcomes, runner, table
from bench.experiments.outcomes import Outcome
from bench.experiments.protocol import Arm, Comparison, Experiment, Place, Protocol, Run

PROTOCOL = Protocol(
    name="toy", hypothesis="good is better than bad", refuted="it is not",
    primary=(Comparison("good", "bad", "right", "here"),), baseline="bad",
    metrics={"right": ("one", "two")}, conditions=("here", "there"),
    arms=(
        Arm("copy", "what good got", needs="good"),
        Arm("bad", "chance", {"level": 0.2}), Arm("good", "skill", {"level": 0.6}),
        Arm("chosen", "by selection", best_of=("bad", "good")),
    ),
    data="none", selection="of arms", seeds=3, settings={"images": 40}, quick={"images": 9},
)  # fmt: skip
RAN: list[str] = []


def run(place: Place, run: Run, earlier: Outcome | None) -> Outcome:
    RAN.append(run.name)
    if earlier:
        return Outcome(earlier.scores, {"sigma": [[0.5]]})
    right = torch.rand(2, 3, place.settings["images"]) < run.arm.options["level"]
    one, two = (part.double().mean(0).numpy() for part in right)
    selection = np.array([run.arm.options["level"] - run.seed * 0.1])
    return Outcome({"one": one, "two": two, "selection": selection}, {"sigma": [[0.1], [0.3, 0.7]]})


def model(place: Place, run: Run) -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(2, 1), torch.ones(3, 2)


TOY = Experiment(PROTOCOL, run, model)
PLACE = Place(torch.device("cpu"), PROTOCOL.settings)


def done(out: Path, seeds: int = 2) -> dict[tuple[str, str], list[Outcome]]:
    RAN.clear()
    return runner.do_all(TOY, PLACE, seeds, out)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.json"))}


def test_two_runs_of_a_seed_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        done(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(set(files(tmp_path / "a").values())) == len(files(tmp_path / "a")) == 2 * 2 * 3


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    found = done(tmp_path)
    assert len(RAN) == 12 and RAN.index("here-good-seed0") < RAN.index("here-copy-seed0")
    assert set(found) == {(c, a.name) for c in PROTOCOL.conditions for a in PROTOCOL.arms}
    path = next(tmp_path.rglob("here-bad-seed1.json"))
    path.unlink()
    again = done(tmp_path, seeds=3)
    assert RAN == ["here-bad-seed1", *(n for n in RAN if n.endswith("seed2"))] and len(RAN) == 7
    for key, outcomes_ in found.items():
        for a, b in zip(outcomes_, again[key], strict=False):
            assert a.learned == b.learned
            assert all(np.array_equal(a.scores[name], b.scores[name]) for name in a.scores)


def test_the_chosen_arm_is_that_with_the_best_selection_score(tmp_path: Path) -> None:
    found = done(tmp_path)
    for condition in PROTOCOL.conditions:
        for chosen, good in zip(found[condition, "chosen"], found[condition, "good"], strict=True):
            assert chosen.learned["chosen"] == "good" and chosen.scores is good.scores
    assert not list(tmp_path.rglob("*chosen*"))


@pytest.mark.parametrize("change", ["protocol", "settings", "damage"])
def test_a_file_of_another_run_is_not_taken(change: str, tmp_path: Path) -> None:
    done(tmp_path, seeds=1)
    experiment, place, says = TOY, PLACE, "is of another"
    if change == "protocol":
        other = dataclasses.replace(PROTOCOL, hypothesis="good is worse")
        experiment = dataclasses.replace(TOY, protocol=other)
    elif change == "settings":
        place = Place(PLACE.device, {"images": 41})
    else:
        says = "cannot be read"
        next(tmp_path.rglob("here-bad-seed0.json")).write_text("{")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=says):
        runner.do_all(experiment, place, 1, tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "values", [[0.0, 1.0, 1.0], [0.2, 0.6, 1.0], [0.125, 0.0, 1.0], [0.1234, 0.5, 0.9]]
)
def test_scores_are_read_back(values: list[float], tmp_path: Path) -> None:
    about: dict[str, Any] = {"protocol": "p", "settings": {}, "device": "d", "torch": "t"}
    outcomes.write(tmp_path / "a.json", Outcome({"x": np.array(values)}), about)
    found = outcomes.read(tmp_path / "a.json", about)
    assert found is not None and found.scores["x"].tolist() == values
    packed = json.loads((tmp_path / "a.json").read_text())["scores"]["x"]
    assert ("counts" in packed) == (values[0] != 0.1234)


def test_the_table_compares_in_pairs(tmp_path: Path) -> None:
    record, path = command.summarise(TOY, PLACE, 3, tmp_path, 1, 0.01)
    written = json.loads(path.read_text())
    assert written["rows"] == record["rows"] and written["sweep"] == "experiments/toy"
    assert written["protocol"]["hypothesis"] == PROTOCOL.hypothesis
    found = {(row["condition"], row["arm"]): row for row in record["rows"]}
    scores = found["here", "good"]["metrics"]["right"]
    bad = found["here", "bad"]["metrics"]["right"]
    gains = np.array(scores["by_seed"]) - bad["by_seed"]
    assert scores["difference"] == pytest.approx(gains.mean(), abs=1e-5)
    # Student's t of 2 degrees of freedom
    half = 4.302653 * gains.std(ddof=1) / 3**0.5
    assert scores["difference_half_seeds"] == pytest.approx(half, abs=1e-5)
    assert scores["difference_half"] > half and bad["difference"] == bad["difference_half"] == 0
    (primary,) = record["primary"]
    assert primary["difference"] == scores["difference"] and primary["verdict"] == "above 0"
    text = table.text(record)
    assert "PRIMARY right, good − bad, here" in text and "there, 3 seeds" in text
    assert f"{100 * scores['mean']:.1f} ({100 * scores['difference']:+.1f} ± " in text
    assert "0.10 0.50" in text  # medians of the layers' σ
    assert found["here", "good"]["parameters"] == 3 and "parameters" not in found["here", "chosen"]


def test_the_protocol_says_all_that_it_fixes() -> None:
    text = PROTOCOL.text()
    for part in ("good is better than bad", "it is not", "right of good − bad, here", "chance"):
        assert part in text
    assert dataclasses.replace(PROTOCOL, seeds=4).digest() != PROTOCOL.digest()


@pytest.mark.parametrize("name", command.EXPERIMENTS)
def test_every_protocol_is_complete(name: str) -> None:
    experiment = command.load(name)
    protocol = experiment.protocol
    runs = runner.runs(experiment, 2)
    assert len({runner.path_of(experiment, PLACE, run, Path()) for run in runs}) == len(runs)
    arms = {arm.name for arm in protocol.arms}
    assert protocol.name == name and protocol.baseline in arms and protocol.seeds >= 5
    assert len(arms) == len(protocol.arms)
    for comparison in protocol.primary:
        assert {comparison.arm, comparison.against} <= arms
        assert comparison.metric in protocol.metrics and comparison.condition in protocol.conditions
    for arm in protocol.arms:
        assert arm.about and set(arm.best_of) <= arms and (not arm.needs or arm.needs in arms)
    assert set(protocol.quick) <= set(protocol.settings)
    text = protocol.text()
    assert "refuted if" in text and "selection" in text
