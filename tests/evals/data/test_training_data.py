"""Training data: train and dev set, and the report on them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cgclora.data.readers import Problem, read_records
from cgclora.data.records import DataError, Record
from evals.data.datasets import Dataset, letters_and_digits
from evals.data.report import FEW, FEW_DEV, Finding, Labels, Lengths, Report, report
from evals.data.training_data import Source, TrainingData, read_source, split_off, training_data
from tests.helpers.records import CONVERSATION, FIREFLY, PROMPTCBLUE, lines


def record(number: int, task: str = "a", prompt: str = "", target: str = "yes") -> Record:
    return Record(f"{task}-{number}", task, prompt or f"question {number} of {task}", target)


def dataset(*records: Record, problems: tuple[Problem, ...] = ()) -> Dataset:
    return Dataset("some", None, records, problems)


def many(count: int, task: str = "a", **more: Any) -> list[Record]:
    return [record(number, task, **more) for number in range(count)]


def report_on(*train: Record, dev: list[Record] | None = None, **options: Any) -> Report:
    dev_set = None if dev is None else dataset(*dev)
    return report(training_data(dataset(*train), dev_set), 100, **options)


def kinds(found: Report) -> dict[str, Finding]:
    return {finding.kind: finding for finding in found.findings}


# Train and dev --------------------------------------------------------------------------------


def test_all_forms_of_the_datasets_become_what_the_command_reads(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", PROMPTCBLUE, FIREFLY, CONVERSATION)
    dev = lines(tmp_path / "own" / "dev.jsonl", PROMPTCBLUE, FIREFLY, CONVERSATION)
    data = training_data(*read_source(Source(train, dev)))
    written = data.write(tmp_path)
    for path, part in zip(written, (data.train, data.dev), strict=True):
        assert tuple(read_records(path)) == part.records
    assert {one.task for one in data.train.records} == {"KUAKE-QIC", "Couplet", "OpenQA"}


def test_the_split_leaves_every_task_in_both_parts_and_loses_nothing() -> None:
    whole = dataset(*many(20), *many(3, "b"), *many(2, "c"))
    rest, part = split_off(whole, 0.25, seed=1)
    assert sorted(one.id for one in (*rest.records, *part.records)) == sorted(
        one.id for one in whole.records
    )
    assert {one.task: part.tasks.count(one.task) for one in part.records} == dict.fromkeys("abc", 1)
    assert len(part.of_task("a")) == 5
    assert rest.tasks == ("a", "b", "c")


def test_equal_prompts_are_never_on_both_sides_of_the_split() -> None:
    twice = [
        record(2 * number + copy, prompt=f"What is {number}" + "?" * copy)
        for number in range(12)
        for copy in range(2)
    ]
    rest, part = split_off(dataset(*twice), 0.3, seed=0)
    sides = [{letters_and_digits(one.prompt) for one in side.records} for side in (rest, part)]
    assert sides[0] & sides[1] == set()
    assert len(part.records) in {6, 8}  # three tenths of 24, in pairs


def test_labels_keep_their_shares_on_both_sides_of_the_split() -> None:
    labels = ["often"] * 60 + ["at times"] * 28 + ["seldom"] * 12
    whole = dataset(*(record(n, target=label) for n, label in enumerate(labels)))
    for seed in range(5):
        _, part = split_off(whole, 0.25, seed)
        counts = Counter(one.target for one in part.records)
        assert {label: counts[label] for label in set(labels)} == {
            "often": pytest.approx(15, abs=1),
            "at times": pytest.approx(7, abs=1),
            "seldom": pytest.approx(3, abs=1),
        }


def test_the_split_depends_on_the_seed_alone() -> None:
    whole = many(40)
    first, again, other = (
        {one.id for one in split_off(dataset(*records), 0.2, seed)[1].records}
        for records, seed in ((whole, 0), (whole[::-1], 0), (whole, 1))
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("records", "fraction", "words"),
    [
        ([record(0), record(1, prompt="question 0 of a!")], 0.5, "task 'a' has one prompt only"),
        (many(4), 0.0, "between 0 and 1"),
        (many(4), 1.0, "between 0 and 1"),
    ],
)
def test_what_cannot_be_split_is_refused(
    records: list[Record], fraction: float, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        split_off(dataset(*records), fraction, 0)


def test_dev_has_the_tasks_of_train_and_no_others() -> None:
    dev = dataset(*many(2), *many(2, "b"))
    assert training_data(dataset(*many(3)), dev).dev.tasks == ("a",)
    with pytest.raises(DataError, match="no record of c"):
        training_data(dataset(*many(3, "c")), dev)


def test_tasks_that_are_not_there_are_passed_over() -> None:
    data = dataset(*many(4), *many(4, "b"))
    assert training_data(data, None, tasks=("b", "gone")).train.tasks == ("b",)
    assert training_data(data, None, tasks=("gone",)).train.tasks == ("a", "b")


def test_a_limit_of_records_holds_for_each_task() -> None:
    data = training_data(dataset(*many(9), *many(3, "b")), dataset(*many(1), *many(1, "b")))
    assert [data.records(most) for most in (0, 5, 2)] == [12, 8, 4]


def test_bad_lines_are_counted_once_and_told_with_their_place(tmp_path: Path) -> None:
    bad = {**FIREFLY, "target": ""}
    other = {**FIREFLY, "input": "上联：秋月"}
    path = lines(tmp_path / "mine.jsonl", FIREFLY, bad, "{", other)
    data = training_data(*read_source(Source(path)))
    assert [(one.line, one.field) for one in data.problems] == [(2, "target"), (3, None)]
    both = training_data(*read_source(Source(path, path)))
    assert len(both.problems) == 4


# Report ---------------------------------------------------------------------------------------


def test_lengths_and_labels_are_those_of_the_records() -> None:
    targets = ["yes"] * 6 + ["no"] * 4
    train = [record(n, prompt="x" * (n + 1), target=t) for n, t in enumerate(targets)]
    found = report_on(*train, dev=many(1))
    (task,) = found.tasks
    assert (task.train, task.dev) == (10, 1)
    assert task.prompt == Lengths(5, 10, 10)
    assert task.target == Lengths(3, 3, 3)
    assert task.labels == Labels(2, "yes", 0.6)
    assert found.characters == pytest.approx(5.5 + 2.6)


@pytest.mark.parametrize("target", ["answer {}", "x" * 61])
def test_free_answers_are_no_labels(target: str) -> None:
    train = [record(n, target=target.format(n)) for n in range(8)]
    assert report_on(*train, dev=many(1)).tasks[0].labels is None


def test_tokens_are_counted_where_somebody_counts() -> None:
    asked: list[str] = []

    def count(texts: Any) -> list[int]:
        asked.extend(texts)
        return [len(text) for text in texts]

    train = [record(n, prompt="p" * (40 if n % 2 else 200), target="t") for n in range(1000)]
    (task,) = report_on(*train, dev=many(1), count_tokens=count).tasks
    assert len(asked) <= 200
    assert asked[0] == "p" * 200 + "\nt"
    assert task.too_long is not None
    assert 0 <= task.too_long <= 1
    (uncounted,) = report_on(*train, dev=many(1)).tasks
    assert uncounted.too_long is None


def test_good_data_has_no_finding() -> None:
    train = [*many(FEW), *many(FEW, "b")]
    train = [
        Record(r.id, r.task, r.prompt, target="yes" if n % 2 else "no") for n, r in enumerate(train)
    ]
    dev = [record(n, task, prompt=f"dev {n}") for task in "ab" for n in range(FEW_DEV)]
    assert report_on(*train, dev=dev).findings == ()


def test_dev_prompts_that_are_trained_on_are_reported() -> None:
    dev = [record(0, prompt="Question 3, of A?"), record(1, prompt="fresh")]
    assert kinds(report_on(*many(9), dev=dev))["leakage"].count == 1


def test_repeated_prompts_are_told_from_contradictions() -> None:
    train = [*many(3), record(3, prompt="question 0 of a"), record(4, prompt="question 1 of a")]
    train.append(record(5, prompt="question 1 of a", target="no"))
    found = kinds(report_on(*train, dev=many(1)))
    assert found["repeated"].count == 3
    assert found["conflicts"].count == 1


def test_weak_tasks_are_named() -> None:
    train = [*many(21 * 3), *many(3, "b", target="no")]
    found = kinds(report_on(*train, dev=[record(0, prompt="d"), record(0, "b", prompt="d")]))
    assert found["few"].tasks == ("b",)
    assert found["few_dev"].tasks == ("a", "b")
    assert found["one_label"].tasks == ("a", "b")


def test_tasks_of_very_different_size_are_reported_with_their_ratio() -> None:
    found = kinds(report_on(*many(63), *many(3, "b"), dev=[record(0), record(0, "b")]))
    assert found["unequal"] == Finding("unequal", ("a", "b"), 21)
    fine = kinds(report_on(*many(60), *many(3, "b"), dev=[record(0), record(0, "b")]))
    assert "unequal" not in fine


def test_one_task_alone_has_nothing_to_share() -> None:
    assert kinds(report_on(*many(9), dev=many(1)))["one_task"].tasks == ("a",)
    assert "one_task" not in kinds(report_on(*many(9), *many(9, "b")))


def test_a_split_is_told() -> None:
    found = report_on(*many(40))
    assert kinds(found)["split_off"].count == found.tasks[0].dev == 4


def test_training_data_keeps_its_problems() -> None:
    problem = Problem("f", 3, None, "", "bad")
    train = dataset(*many(4), problems=(problem,))
    assert TrainingData(train, train, split_off=True).problems == (problem,)
    assert report(training_data(train, None), 10).problems == (problem,)
