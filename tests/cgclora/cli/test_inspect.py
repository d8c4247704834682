"""`python -m cgclora inspect`: sizes, origin, shares and scores."""

import json
import shutil
from pathlib import Path

import pytest

from cgclora.__main__ import main
from cgclora.models.gates import read_gates
from cgclora.storage.adapter_dir import annotate, read_manifest


def test_inspect_shows_sizes_origin_and_shares(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder / "run" / "adapter")]) == 0
    text = capsys.readouterr().out
    manifest, config = read_manifest(folder / "run" / "adapter")
    best = manifest["training"]["best_dev_loss"]
    for word in (
        "2 common + 1 x 2 specific, rank 2 each",
        f"{config.total_rank} total, {config.active_rank} active",
        f"{manifest['trainable_parameters']:,} parameters",
        manifest["backbone"]["fingerprint"][:12],
        str(best),
        "not stated",
        "the fast decoder on cpu",
    ):
        assert word in text
    assert main(["inspect", str(folder / "run" / "adapter"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["manifest"] == manifest
    assert facts["config"]["tasks"] == ["mood", "weather"]
    gates = read_gates(folder / "run" / "adapter")
    for row, task in enumerate(config.tasks):
        shares = facts["gate_shares"][task]
        assert shares["common"] == pytest.approx(float(gates[:, row, :2].sum(-1).mean()), abs=1e-6)
        assert shares["common"] + shares["specific"] == pytest.approx(1)
        assert f"{shares['common']:.1%}" in text


def test_inspect_shows_the_accuracies_that_the_manifest_holds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(folder / "run" / "adapter", tmp_path / "adapter")
    score = {"right": 3, "accuracy": 0.75, "interval": [0.301, 0.954]}
    annotate(adapter, {"classification": {"tasks": {"mood": {"records": 4, "adapter": score}}}})
    assert main(["inspect", str(adapter)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "accuracy (95 % interval)  adapter",
        "mood, 4 records           0.750 (0.301-0.954)",
    ]
