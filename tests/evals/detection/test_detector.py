"""Proposing a task for a text, and taking a prompt apart into the fields of its task."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cgclora.data.records import Record
from cgclora.data.text_features import features
from cgclora.storage.atomic_io import sha256_file
from evals.detection import fit
from evals.detection.detector import (
    FILE,
    DetectionError,
    Detector,
    load_detector,
    split_fields,
)
from evals.detection.fit import calibration_error, main_fields, scores, wordings
from evals.tasks import CHOICES, TASKS, Task, UnknownTaskError
from evals.tasks.samples import Sample, load_samples

SAMPLES = [sample for samples in load_samples().values() for sample in samples]
ALL_TASKS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
DATA = os.environ.get("CGCLORA_DATA", "")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector()


def prompt(sample: Sample) -> str:
    return TASKS[sample.task].prompt(sample.fields)


# Guesses ----------------------------------------------------------------------------------


def test_a_prompt_in_a_tasks_own_wording_is_of_that_task(detector: Detector) -> None:
    for sample in SAMPLES:
        best = detector.guesses(prompt(sample))[0]
        assert (best.task, best.probability) == (sample.task, pytest.approx(1))


def test_prompts_in_other_words_are_mostly_told(detector: Detector) -> None:
    others = {
        "Couplet": "帮我对个下联，上联是：春江水暖帆先动",
        "SentimentAnalyze": "这条评论是积极还是消极？\n屏幕很亮，就是电池不耐用",
        "KUAKE-QIC": "这条搜索词的意图是什么？\n咳嗽吃什么好\n选项：治疗方案，病因分析",
        "MedDG": "医生接下来该怎么回复？\n患者：孩子咳嗽三天了\n\n医生：有痰吗？\n\n患者：有一点",
    }
    assert {name: detector.guesses(text)[0].task for name, text in others.items()} == {
        name: name for name in others
    }


def test_bare_texts_of_a_kind_of_their_own_are_told(detector: Detector) -> None:
    texts = {
        "CHIP-CDN": "左肾结石",
        "SentimentAnalyze": "这个手机电池太差了，两天就坏了",
        "CHIP-CTC": "年龄18-65岁，签署知情同意书",
    }
    for name, text in texts.items():
        best = detector.guesses(text)[0]
        assert best.task == name
        assert best.probability > 0.5


def test_tasks_over_the_same_kind_of_text_share_the_probability(detector: Detector) -> None:
    first, second = detector.guesses("高血压能吃海带吗\n高血压病人可以吃海带么")[:2]
    assert {first.task, second.task} == {"CHIP-STS", "TextMatching"}
    assert first.probability < 0.8
    assert detector.guesses("头痛三天，吃什么药好")[0].probability < 0.7


@pytest.mark.parametrize(
    "text", ["How do I sort a list?", "for i in range(3):\n    print(i)", "12345", "？", "🙂", "a"]
)
def test_a_text_without_chinese_says_nothing(detector: Detector, text: str) -> None:
    chances = [guess.probability for guess in detector.guesses(text)]
    assert chances == pytest.approx([1 / len(detector.tasks)] * len(detector.tasks))


def test_a_single_character_gives_no_confidence(detector: Detector) -> None:
    assert all(detector.guesses(text)[0].probability < 0.5 for text in "我龘病花")


@pytest.mark.parametrize("text", ["", " \n\t　"])
def test_an_empty_text_is_refused(detector: Detector, text: str) -> None:
    with pytest.raises(DetectionError, match="no text"):
        detector.guesses(text)


def test_tasks_that_cannot_be_chosen_from_are_refused(detector: Detector) -> None:
    with pytest.raises(DetectionError, match="no task"):
        detector.guesses("头痛", [])
    with pytest.raises(UnknownTaskError):
        detector.guesses("头痛", ["Kouplet"])


@given(
    text=st.text(min_size=1).filter(str.strip),
    tasks=st.lists(st.sampled_from(sorted(TASKS)), min_size=1, unique=True),
)
def test_any_text_gets_a_distribution_over_the_tasks_asked_about(
    text: str, tasks: list[str]
) -> None:
    guesses = SHIPPED.guesses(text, tasks)
    assert sorted(guess.task for guess in guesses) == sorted(tasks)
    chances = [guess.probability for guess in guesses]
    assert sum(chances) == pytest.approx(1)
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] >= 0


SHIPPED = load_detector()


def test_a_choice_among_fewer_tasks_keeps_their_ratios(detector: Detector) -> None:
    text, pair = "春江水暖帆先动", ["Couplet", "AncientPoem"]
    among_all = {guess.task: guess.probability for guess in detector.guesses(text)}
    among_two = {guess.task: guess.probability for guess in detector.guesses(text, pair)}
    assert among_two["Couplet"] / among_two["AncientPoem"] == pytest.approx(
        among_all["Couplet"] / among_all["AncientPoem"]
    )


def test_a_task_without_data_is_proposed_for_its_own_wording_only(detector: Detector) -> None:
    asked = ["Dictionary", "KUAKE-QIC"]
    made = TASKS["Dictionary"].prompt({"word": "晨练"})
    assert detector.guesses(made, asked)[0].task == "Dictionary"
    assert [guess.probability for guess in detector.guesses("晨练", asked)] == [1, 0]
    assert detector.guesses("晨练", asked)[0].task == "KUAKE-QIC"


def test_prompts_are_told_from_bare_texts(detector: Detector) -> None:
    right = [
        (detector.prompt_probability(prompt(sample)) > 0.5)
        + (detector.prompt_probability(main(sample)) < 0.5)
        for sample in SAMPLES
    ]
    assert np.mean(right) > 1.9


def main(sample: Sample) -> str:
    return sample.fields[TASKS[sample.task].fields[0].name]


def test_a_guess_takes_milliseconds(detector: Detector) -> None:
    texts = [prompt(sample) for sample in SAMPLES]
    start = time.process_time()
    for text in texts:
        detector.guesses(text)
    assert (time.process_time() - start) / len(texts) < 0.05  # 1 ms, on a machine that does nothing


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from evals.detection.detector import load_detector;"
        "load_detector().guesses('头痛');"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_features_are_of_bounded_length_and_fold_widths_case_and_digits() -> None:
    buckets, values = features("ＡＢＣ，１２３")
    assert (np.diff(buckets) > 0).all()
    assert 0 < (values**2).sum() < 1
    for one, other in zip(features("abc,450"), (buckets, values), strict=True):
        np.testing.assert_array_equal(one, other)


# The shipped file -------------------------------------------------------------------------


def test_the_shipped_detector_knows_the_tasks_of_the_shipped_adapters(detector: Detector) -> None:
    configs = (FILE.parent / "adapters").glob("*/config.json")
    adapted = [name for path in configs for name in json.loads(path.read_bytes())["tasks"]]
    assert sorted(adapted) == sorted(detector.tasks)


def test_the_manifest_is_of_the_shipped_file_and_says_how_it_may_be_used() -> None:
    manifest = json.loads(FILE.with_suffix(".json").read_bytes())
    assert manifest["file"] == {"bytes": FILE.stat().st_size, "sha256": sha256_file(FILE)}
    assert "research only" in manifest["licence"]
    assert manifest["test"]["whole"]["accuracy@1"] > 0.99
    assert FILE.stat().st_size < 300_000


def test_the_shipped_file_holds_numbers_only() -> None:
    arrays = load_file(FILE)
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "weights": "int8",
        "scales": "float32",
        "bias": "float32",
        "characters": "uint8",
    }


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "detection.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DetectionError, match=r"cannot read the detector .*detection\.safetensors"):
        load_detector(path)


# Fields -----------------------------------------------------------------------------------


@ALL_TASKS
def test_the_fields_of_a_prompt_come_back(task: Task) -> None:
    fields = {
        field.name: field.options[-1]
        if field.options
        else ("甲，乙" if field.name == CHOICES else f"第{number}项\n有两行：“好”？")
        for number, field in enumerate(task.fields)
    }
    assert split_fields(task, task.prompt(fields)) == fields


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.task)
def test_a_sample_is_undone_by_its_own_task_alone(sample: Sample) -> None:
    made = prompt(sample)
    assert [name for name, task in TASKS.items() if split_fields(task, made)] == [sample.task]
    assert TASKS[sample.task].prompt(split_fields(TASKS[sample.task], made) or {}) == made


def test_a_missing_last_line_other_widths_and_line_ends_do_not_matter() -> None:
    task = TASKS["KUAKE-QIC"]
    expected = {"text": "咳嗽吃什么好", CHOICES: "治疗方案，病因分析"}
    made = task.prompt(expected)
    for text in (
        made.removesuffix("答："),
        made.replace("：", ":"),
        "\n " + made.replace("\n", " \r\n") + " \n",
    ):
        assert split_fields(task, text) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KUAKE-QIC", "咳嗽吃什么好"),
        ("KUAKE-QIC", "判断下面搜索词的意图：\n\n选项：甲，乙\n答："),
        ("CHIP-STS", "以下两句话的意思相同的吗？\n“甲”，“乙”\n选项：是的，不是，别的\n答："),
        ("ClassicalChinese", "把下面的文言文翻译成英文：\n学而时习之"),
        ("Couplet", "请根据上联对出下联："),
    ],
)
def test_a_text_in_other_words_has_no_fields(name: str, text: str) -> None:
    assert split_fields(TASKS[name], text) is None


@given(st.text())
def test_any_text_can_be_asked_for_its_fields(text: str) -> None:
    for task in TASKS.values():
        fields = split_fields(task, text)
        assert fields is None or task.prompt(fields)


def test_a_long_text_made_to_confuse_takes_no_time() -> None:
    start = time.process_time()
    for task in TASKS.values():
        split_fields(task, "\n这是的《》”，“" * 20_000)
    assert time.process_time() - start < 10  # 0.2 s; with a backtracking search it is hours


# Fitting ----------------------------------------------------------------------------------

WORDS = ("风", "雨", "山", "水", "春", "秋", "花", "月")


def couplets(count: int) -> list[Record]:
    records = []
    for number in range(count):
        line = "".join(WORDS[number // 8**place % 8] for place in range(4))
        wording = ("请对下联：\n{}", "给上联“{}”配一个下联")[number % 2]
        records.append(Record(str(number), "Couplet", wording.format(line), "下"))
    return records


def test_the_main_field_is_what_the_shared_wordings_frame() -> None:
    records = couplets(200)
    known = wordings(records)
    assert main_fields(records[6], known) == (WORDS[6] + "风风风",)
    assert main_fields(records[7], known) == (WORDS[7] + "风风风",)


def test_both_texts_of_a_pair_are_found_in_quotes_and_on_lines() -> None:
    quoted = "下面两个句子语义是“相同”或“不同”？\n“甲{0}吗”，“乙{0}吗”。\n选项：相同，不同\n答："
    lines = "文本匹配：\n句子一：甲{0}吗\n句子二：乙{0}吗\n两句话相似还是不相似？"
    for name, wording in (("CHIP-STS", quoted), ("TextMatching", lines)):
        choices = ("相同", "不同") if name == "CHIP-STS" else None
        records = [
            Record(str(n), name, wording.format(chr(0x4E00 + n)), "相同", choices)
            for n in range(100)
        ]
        found = main_fields(records[5], wordings(records))
        assert found == (f"甲{chr(0x4E05)}吗", f"乙{chr(0x4E05)}吗")


def test_calibration_error_is_the_gap_between_confidence_and_hits() -> None:
    right = np.array([True, True, False, False])
    assert calibration_error(np.full(4, 0.5), right) == 0
    assert calibration_error(np.full(4, 0.95), right) == pytest.approx(0.45)
    assert calibration_error(np.array([1.0, 1.0, 0.0, 0.0]), right) == 0


def test_scores_count_first_and_third_guesses() -> None:
    chances = np.array([[0.4, 0.3, 0.2, 0.1]] * 4)
    report = scores(chances, np.arange(4), np.array(["raw"] * 4), list("abcd"))["raw"]
    assert (report["texts"], report["accuracy@1"], report["accuracy@3"]) == (4, 0.25, 0.75)
    assert report["confusions"] == {"b as a": 1, "c as a": 1, "d as a": 1}


def pack(folder: Path) -> Path:
    """A data folder with two small tasks."""
    reviews = [
        {"kind": "SentimentAnalyze", "input": f"积极还是消极？\n{w}不{v}，很失望", "target": "消极"}
        for w in WORDS
        for v in WORDS
    ]
    lines = [{"kind": "Couplet", "input": record.prompt, "target": "下"} for record in couplets(64)]
    for split in ("train", "dev", "test"):
        content = "\n".join(
            json.dumps(line) for pair in zip(reviews, lines, strict=True) for line in pair
        )
        (folder / f"{split}.jsonl").write_text(content, encoding="utf-8")
    return folder


def test_the_same_data_gives_the_same_file(tmp_path: Path) -> None:
    source, files = pack(tmp_path), []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.safetensors"
        manifest = fit.fit(source, out)
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert manifest["file"]["sha256"] == sha256_file(out)
    assert json.loads(out.with_suffix(".json").read_bytes()) == manifest
    fitted = load_detector(out)
    assert fitted.tasks == ("Couplet", "SentimentAnalyze")
    assert manifest["test"]["raw"]["accuracy@1"] > 0.8  # in three steps
    assert fitted.guesses("花不月，很失望")[0].task == "SentimentAnalyze"


@pytest.mark.skipif(not DATA, reason="needs the data that the shipped detector was fitted on")
@pytest.mark.skipif("CGCLORA_REFIT" not in os.environ, reason="minutes: CGCLORA_REFIT=1 fits anew")
def test_the_data_gives_the_shipped_file(tmp_path: Path) -> None:
    out = tmp_path / "detection.safetensors"
    manifest = fit.fit(DATA, out)
    if manifest["data"] != json.loads(FILE.with_suffix(".json").read_bytes())["data"]:
        pytest.skip("it is other data")
    assert out.read_bytes() == FILE.read_bytes()
