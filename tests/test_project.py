"""Facts that must stand in two files, because two tools read them, agree."""

import re
from pathlib import Path

import pytest
from huggingface_hub import metadata_load
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def space() -> dict:
    """The front matter that configures the Space."""
    return metadata_load(ROOT / "README.md")


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_requirement_is_pinned(requirements):
    for requirement in requirements:
        assert re.fullmatch(r"==[0-9.]+", str(requirement.specifier)), requirement


def test_space_runs_the_gradio_that_is_pinned(space, requirements):
    pinned = {requirement.name: str(requirement.specifier) for requirement in requirements}
    assert pinned["gradio"] == f"=={space['sdk_version']}"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_python_gets_one_torch(requirements, python):
    wanted = [
        requirement
        for requirement in requirements
        if requirement.name == "torch" and requirement.marker.evaluate({"python_version": python})
    ]
    assert len(wanted) == 1


def test_space_front_matter_has_values_that_the_hub_takes(space):
    assert space["sdk"] == "gradio"
    assert (ROOT / space["app_file"]).is_file()
    assert len(space["short_description"]) <= 60
    assert {space["colorFrom"], space["colorTo"]} <= COLOURS
    assert isinstance(space["python_version"], str)


def test_notice_carries_the_sentence_that_gemmas_terms_ask_for():
    terms = (ROOT / "GEMMA_TERMS.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r'following notice:\s+"\*\*(.+?)\*\*"', terms)
    assert sentence in (ROOT / "NOTICE").read_text(encoding="utf-8")
