"""The time left of an evaluation, on a clock of our own."""

import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgclora.data.records import Record
from cgclora.inference.request import Answer, Request, longest_first
from evals.cli.predict import print_progress
from evals.data.datasets import Dataset
from evals.runs import evaluate
from evals.runs.evaluate import predict, request_of
from evals.runs.progress import read_progress
from evals.runs.time_left import TimeLeft

SIZES = {
    "CHIP-CDEE": (200, 110),
    "CMeIE": (190, 140),
    "IMCS-V2-MRG": (900, 130),
    "NER": (130, 28),
    "Couplet": (40, 9),
    "KUAKE-QIC": (80, 4),
    "CHIP-STS": (60, 2),
    "SentimentAnalyze": (70, 2),
}
"""For each task characters of a prompt and of a reference: about those of the data."""


def records(per_task: int) -> list[Record]:
    generator = random.Random(1)
    made = []
    for task, (prompt, target) in SIZES.items():
        for number in range(per_task):
            lengths = [max(1, round(n * generator.uniform(0.5, 1.5))) for n in (prompt, target)]
            made.append(Record(f"{task} {number}", task, "问" * lengths[0], "答" * lengths[1]))
    generator.shuffle(made)
    return made


class Clocked:
    """An engine with rows whose time goes by in proportion to tokens, longest answers first.

    An answer has about two tokens for three characters of its reference.

    Args:
        parallel: How many rows.
        read: Seconds that each character of a prompt takes.
        write: Seconds that each token of an answer takes.
    """

    def __init__(self, parallel: int, read: float, write: float) -> None:
        self.parallel = parallel
        self.read = read
        self.write = write
        self.now = 1000.0
        self.ends: list[float] = []

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        return {"backbone": {"name": "clocked"}}

    def monotonic(self) -> float:
        return self.now

    def say(self, record: Record, most: int) -> int:
        noise = random.Random(record.id).uniform(0.8, 1.25)
        return max(1, min(most, round(len(record.target) * noise * 2 / 3) + 1))

    def run(self, asked: Sequence[Record], requests: Sequence[Request]) -> Iterator[Any]:
        waiting = iter(longest_first(requests))
        rows: list[tuple[float, int, float, int]] = []

        def begin() -> None:
            for place in waiting:
                tokens = self.say(asked[place], requests[place].max_new_tokens)
                seconds = self.read * len(asked[place].prompt) + self.write * tokens
                heapq.heappush(rows, (self.now + seconds, place, seconds, tokens))
                if len(rows) == self.parallel:
                    return

        begin()
        while rows:
            self.now, place, seconds, tokens = heapq.heappop(rows)
            yield place, tokens, seconds
            begin()


@pytest.mark.parametrize("parallel", [1, 16, 100])
@pytest.mark.parametrize(("read", "write"), [(0.01, 0.01), (0.001, 0.02), (0.0, 0.05)])
def test_the_estimate_is_within_a_quarter_from_the_first_tenth_on(
    parallel: int, read: float, write: float
) -> None:
    told, whole = estimates(parallel, parallel, read, write)
    assert len(told) > 80
    for passed, estimate in told:
        left = whole - passed
        assert abs(estimate - left) <= 0.25 * left + 0.02 * whole, (passed, left, estimate)


def test_that_there_is_room_for_fewer_rows_shows_in_the_answers() -> None:
    told, whole = estimates(25, 100, 0.001, 0.02)
    late = [(passed, estimate) for passed, estimate in told if passed >= 0.2 * whole]
    assert len(late) > 70
    for passed, estimate in late:  # a row was given up, and the next answer in it ended
        assert estimate == pytest.approx(whole - passed, rel=0.25, abs=0.02 * whole)


def estimates(
    parallel: int, said: int, read: float, write: float
) -> tuple[list[tuple[float, float]], float]:
    """Seconds passed and estimated to be left, at each hundredth of the time from the tenth on."""
    asked = records(20 + 2 * parallel)
    requests = [request_of(record) for record in asked]
    most = [request.max_new_tokens for request in requests]
    engine = Clocked(parallel, read, write)
    time_left = TimeLeft(asked, most, longest_first(requests), said)
    began = engine.now
    answers = [(*answer, engine.now) for answer in engine.run(asked, requests)]
    whole, told, wanted = engine.now - began, [], 0.1
    for place, tokens, seconds, now in answers:
        time_left.add(place, tokens, seconds, now)
        if now - began >= wanted * whole:
            wanted += 0.01
            estimate = time_left.seconds(now)
            assert estimate is not None
            told.append((now - began, estimate))
    return told, whole


def test_a_label_is_not_expected_to_take_as_long_as_a_report() -> None:
    # One report in 100 s, one label in 1 s: by records the other label would take 50 s.
    asked = [
        Record("1", "IMCS-V2-MRG", "问" * 100, "答" * 99),
        Record("2", "CHIP-STS", "问" * 10, "是"),
        Record("3", "CHIP-STS", "问" * 10, "是"),
    ]
    time_left = TimeLeft(asked, [500, 16, 16], [0, 1, 2], 1)
    time_left.add(0, 100, 100.0, 100.0)
    time_left.add(1, 1, 1.0, 101.0)
    left = time_left.seconds(101.0)
    assert left is not None
    assert 0.5 < left < 4


def test_before_the_first_answer_there_is_no_estimate_and_after_the_last_none_is_needed() -> None:
    record = Record("1", "NER", "问", "答")
    time_left = TimeLeft([record], [99], [0], 8)
    assert time_left.seconds(0.0) is None
    time_left.add(0, 5, 1.0, 1.0)
    assert time_left.seconds(1.0) == 0.0
    assert TimeLeft([], [], [], 1).seconds(0.0) == 0.0


def test_answers_without_times_or_tokens_give_no_estimate_instead_of_a_wrong_one() -> None:
    asked = [Record(name, "NER", "问", "答") for name in "ab"]
    time_left = TimeLeft(asked, [99, 99], [0, 1], 1)
    time_left.add(0, 0, 0.0, 1.0)
    assert time_left.seconds(1.0) is None


def test_the_wait_for_a_first_batch_is_no_pace_of_records() -> None:
    # 100 rows run at once; the first of 1000 answers alike ends after 10 s, all after 100 s.
    asked = [Record(str(n), "NER", "问" * 10, "答" * 10) for n in range(1000)]
    time_left = TimeLeft(asked, [99] * 1000, range(1000), 100)
    time_left.add(0, 10, 10.0, 10.0)
    assert time_left.seconds(10.0) == pytest.approx(90.0)  # by records 9,990 s


class Answering(Clocked):
    """The same as an engine that `predict` can ask."""

    def __init__(self, asked: Sequence[Record]) -> None:
        super().__init__(4, 0.001, 0.05)
        self.asked = {record.prompt: record for record in asked}

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        asked = [self.asked[request.prompt] for request in requests]
        for place, tokens, seconds in self.run(asked, requests):
            yield place, Answer("答", "end", len(requests[place].prompt), tokens, seconds)


def test_command_line_and_app_tell_the_same_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        Record(str(n), task, "问" * (300 - n), "答" * length)
        for n, (task, length) in enumerate([("CMeIE", 150)] * 100 + [("CHIP-STS", 2)] * 100)
    ]
    engine = Answering(asked)
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=engine.monotonic))
    run = tmp_path / "run"
    told: list[tuple[float, float]] = []

    def progress(facts: Mapping[str, Any]) -> None:
        print_progress(facts)
        if facts["done"] < facts["total"]:
            shown = read_progress(run)
            assert shown is not None
            assert shown.seconds_left == pytest.approx(facts["seconds_left"], abs=0.06)
            told.append((engine.now, facts["seconds_left"]))

    dataset = Dataset("made here", "test", tuple(asked))
    predict(run, engine, dataset, method="Backbone", progress=progress)
    assert len(told) > 5
    for now, left in told:
        assert left == pytest.approx(engine.now - now, rel=0.25, abs=5.0)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(f" · {told[0][1] / 60:.1f} min left")
    print_progress({"done": 0, "total": 200, "seconds_left": None})
    assert capsys.readouterr().err == "0/200\n"
