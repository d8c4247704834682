"""The shipped examples: complete, right by their task's own rules, and nobody else's text."""

import json
import os
from pathlib import Path

import pytest

from evals.data.datasets import read
from evals.tasks import CHOICES, TASKS
from evals.tasks.samples import Sample, load_samples

ROOT = Path(__file__).resolve().parents[3]
DATA = os.environ.get("CGCLORA_DATA", "")
SAMPLES = load_samples()
ALL_SAMPLES = pytest.mark.parametrize(
    "sample",
    [
        pytest.param(sample, id=f"{sample.task}-{number}")
        for samples in SAMPLES.values()
        for number, sample in enumerate(samples, start=1)
    ],
)
GRAM = 12  # characters; what is shorter may be a stock phrase


def test_every_task_of_a_shipped_adapter_has_four_different_samples() -> None:
    configs = (ROOT / "assets" / "adapters").glob("*/config.json")
    adapted = {name for path in configs for name in json.loads(path.read_bytes())["tasks"]}
    prompts = {
        name: {TASKS[name].prompt(sample.fields) for sample in samples}
        for name, samples in SAMPLES.items()
    }
    assert adapted
    assert {name: len(found) for name, found in prompts.items()} == dict.fromkeys(adapted, 4)


def test_the_samples_can_be_answered_and_scored_as_data() -> None:
    found = read(ROOT / "assets" / "samples")
    assert (found.problems, found.duplicates) == ((), ())
    asked = {
        name: [(record.prompt, record.target, record.choices) for record in found.of_task(name)]
        for name in found.tasks
    }
    assert asked == {
        name: [
            (TASKS[name].prompt(sample.fields), sample.reference, sample.choices)
            for sample in samples
        ]
        for name, samples in SAMPLES.items()
    }


@ALL_SAMPLES
def test_a_sample_fills_exactly_the_fields_of_its_task(sample: Sample) -> None:
    task = TASKS[sample.task]
    assert set(sample.fields) == {field.name for field in task.fields}
    assert task.choices(sample.fields) == sample.choices
    assert len(task.prompt(sample.fields)) < 500


@ALL_SAMPLES
def test_a_reference_is_read_whole(sample: Sample) -> None:
    task = TASKS[sample.task]
    parsed = task.parse(sample.reference, sample.choices)
    assert parsed.unparsed == ()
    if parsed.kind == "label":
        assert sample.reference in task.answers(sample.choices)
    elif parsed.kind == "attributes":
        assert {status for _, status in parsed.items} <= set(task.labels)
        if "mentions" in sample.fields:
            assert sample.fields["mentions"] == "，".join(finding for finding, _ in parsed.items)
    elif parsed.kind == "sections":
        assert len(parsed.items) == 6
    elif parsed.kind == "terms":
        offered = sample.choices or [term for (term,) in parsed.items]
        assert [(term,) for term in offered if (term,) in parsed.items] == list(parsed.items)


@ALL_SAMPLES
def test_extracted_words_stand_in_the_text(sample: Sample) -> None:
    parsed = TASKS[sample.task].parse(sample.reference, sample.choices)
    text = " ".join(sample.fields.values())
    if parsed.kind in {"entities", "triples"} or sample.task in {
        "IMCS-V2-SR",
        "CHIP-CDN",
        "CHIP-CDEE",
        "KeywordRecognition",
    }:
        labels = {*TASKS[sample.task].labels, "否定", "不确定", ""}
        for word in {word for item in parsed.items for word in item} - labels:
            assert word in text


def test_both_answers_of_every_two_way_task_occur() -> None:
    for name in ("CHIP-STS", "KUAKE-IR", "SentimentAnalyze", "TextMatching"):
        answers = [sample.reference for sample in SAMPLES[name]]
        assert set(answers) == set(TASKS[name].labels)


def test_a_bad_sample_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"firefly/test\.json"):
        load_samples(tmp_path)
    entry: dict[str, object] = {"task": "MedGD", "fields": {}, "reference": "", "choices": None}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.json").write_text(json.dumps([entry]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine/broken\.json, entry 1: .*MedGD"):
        load_samples(tmp_path)


def grams(text: str) -> set[str]:
    return {text[start : start + GRAM] for start in range(len(text) - GRAM + 1)}


def own_grams() -> set[str]:
    """The grams of all our sentences, without what the datasets prescribe."""
    own: set[str] = set()
    for samples in SAMPLES.values():
        for sample in samples:
            task = TASKS[sample.task]
            texts = [
                value
                for name, value in sample.fields.items()
                if name not in {CHOICES, "instruction"}
            ]
            if task.kind != "classification":
                items = task.parse(sample.reference, sample.choices).items
                texts += [word for item in items for word in item if word not in task.labels]
            for text in texts:
                for line in text.split("\n"):
                    own |= grams(line.removeprefix("医生：").removeprefix("患者："))
    return own


@pytest.mark.skipif(
    not DATA, reason="set CGCLORA_DATA to the folder that holds promptcblue/ and firefly/"
)
@pytest.mark.parametrize("dataset", ["promptcblue", "firefly"])
def test_no_sample_repeats_the_training_data(dataset: str) -> None:
    ours = own_grams()
    assert ours
    shared = set()
    for path in sorted((Path(DATA) / dataset).glob("*.jsonl")):
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            record = json.loads(line)
            shared |= ours & grams(f"{record['input']}\n{record['target']}")
    assert shared == set()
