"""Facts that must stand in two files, because two tools read them, agree."""

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cgclora.storage.adapter_dir import read_manifest
from evals.tasks import clusters, get_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_is_pinned(requirements):
    for requirement in requirements:
        assert re.fullmatch(r"==[0-9.]+", str(requirement.specifier)), requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_python_gets_one_torch(requirements, python):
    wanted = [
        requirement
        for requirement in requirements
        if requirement.name == "torch" and requirement.marker.evaluate({"python_version": python})
    ]
    assert len(wanted) == 1


def test_notice_carries_the_sentence_that_gemmas_terms_ask_for():
    terms = (ROOT / "GEMMA_TERMS.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r'following notice:\s+"\*\*(.+?)\*\*"', terms)
    assert sentence in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_eight_bit_weights_change_as_few_tokens_as_the_commands_help_says():
    """About 1 in 100, see `--int8`."""
    measured = json.loads((ROOT / "assets" / "results" / "agreement.json").read_text("utf-8"))
    assert measured["like bf16"]["agreement"] > 0.985


ADAPTERS = sorted(path.parent for path in (ROOT / "assets" / "adapters").glob("*/manifest.json"))


def test_both_clusters_have_an_adapter():
    assert [path.name for path in ADAPTERS] == sorted(clusters())


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda path: path.name)
def test_a_shipped_adapter_knows_its_cluster_its_licence_and_its_scores(folder):
    manifest, config = read_manifest(folder)
    assert set(config.tasks) <= set(clusters()[folder.name])
    assert "Gemma" in manifest["licence"]
    assert "research only" in manifest["licence"]
    assert not manifest["code"]["dirty"]
    assert not manifest["classification"]["code"]["dirty"]
    scores = manifest["classification"]["tasks"]
    classified = {task for task in config.tasks if get_task(task).kind == "classification"}
    assert scores.keys() == classified
