"""Three splits of a user's data: those that are there, and those that are made."""

from pathlib import Path

import pytest

from cgclora.data.records import DataError
from evals.data.datasets import check_apart, letters_and_digits, read
from evals.data.splits import SPLITS, read_splits
from tests.helpers.records import lines


def items(count: int, task: str = "评价", start: int = 0) -> list[dict[str, str]]:
    return [
        {"task": task, "input": f"{task}：第{n}句", "target": "好" if n % 3 else "坏"}
        for n in range(start, start + count)
    ]


def test_one_file_becomes_three_splits_without_a_prompt_in_two(tmp_path: Path) -> None:
    file = lines(tmp_path / "mine.jsonl", *items(100), *items(60, "换算"), *items(5))
    splits = read_splits(file)
    assert splits.made == ("dev", "test")
    sizes = splits.sizes()
    assert {task: sum(sizes[task].values()) for task in sizes} == {"评价": 105, "换算": 60}
    assert sizes["换算"]["test"] == pytest.approx(0.4 * 60, abs=1)  # few: bounded above
    assert sizes["评价"]["dev"] == pytest.approx(0.2 * 63, abs=2)
    prompts = [
        {letters_and_digits(record.prompt) for record in getattr(splits, name).records}
        for name in SPLITS
    ]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


def test_what_is_written_is_what_a_comparison_reads(tmp_path: Path) -> None:
    file = lines(tmp_path / "mine.jsonl", *items(60))
    splits = read_splits(file)
    splits.write(tmp_path / "data")
    whole = {name: read(tmp_path / "data", split=name) for name in SPLITS}
    check_apart(whole)
    for name in SPLITS:
        assert whole[name].records == getattr(splits, name).records
        assert whole[name].descriptions["评价"].kind == "classification"
        assert whole[name].own == splits.train.own


def test_splits_that_are_there_are_taken_and_leaks_are_left_out(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", *items(30))
    lines(tmp_path / "valid.jsonl", *items(8, start=25))
    lines(tmp_path / "test.jsonl", *items(10, start=32))
    splits = read_splits(tmp_path)
    assert splits.made == ()
    # 32 is in dev and test; 25 to 29 in train and dev.
    assert splits.leaked == {"train": 5, "dev": 1}
    assert splits.sizes() == {"评价": {"train": 25, "dev": 7, "test": 10}}


def test_a_folder_without_a_dev_split_gets_one(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", *items(30))
    lines(tmp_path / "test.jsonl", *items(10, start=100))
    splits = read_splits(tmp_path)
    assert (splits.made, splits.leaked) == (("dev",), {})
    assert splits.sizes()["评价"] == {"train": 24, "dev": 6, "test": 10}


def test_files_for_the_other_splits(tmp_path: Path) -> None:
    train = lines(tmp_path / "a.jsonl", *items(30))
    dev = lines(tmp_path / "train.jsonl", *items(10, start=40))  # whatever its name says
    test = lines(tmp_path / "c.jsonl", *items(10, start=60), *items(3, "other"))
    splits = read_splits(train, dev, test)
    assert [getattr(splits, name).split for name in SPLITS] == [*SPLITS]
    assert splits.sizes() == {"评价": {"train": 30, "dev": 10, "test": 10}}


def test_a_broken_split_is_an_error_and_not_a_missing_one(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", *items(30))
    (tmp_path / "test.jsonl").write_text("[1, 2", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.jsonl"):
        read_splits(tmp_path)


def test_a_task_that_is_in_the_test_split_only_is_refused_to_train(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", *items(5))
    lines(tmp_path / "test.jsonl", *items(5))
    with pytest.raises(DataError, match="every train prompt of 评价"):
        read_splits(tmp_path)


def test_chosen_tasks(tmp_path: Path) -> None:
    file = lines(tmp_path / "mine.jsonl", *items(60), *items(60, "换算"))
    assert read_splits(file, tasks=["换算"]).tasks == ("换算",)
