"""PromptCBLUE in lm-evaluation-harness scores answers as a run of ours does."""

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgclora.data.records import DataError, Record
from cgclora.inference.request import Answer, Request
from evals.__main__ import main
from evals.data import datasets
from evals.runs.evaluate import predict, request_of
from evals.runs.harness import pack
from evals.runs.run_dir import Run
from evals.runs.score import score
from evals.tasks import FAMILIES, TASKS
from evals.tasks.samples import SAMPLES

NAMES = [task.name for task in FAMILIES["promptcblue"].tasks]


def answers(records: Sequence[Record]) -> dict[str, str]:
    """An answer to each prompt: right, another record's, cut off, or empty."""
    answer = {}
    for number, record in enumerate(records):
        other = records[number - 1].target
        said = [record.target, other, record.target[:-1], "", f"{record.target}\n{other}"]
        answer[record.prompt] = said[number % len(said)]
    return answer


class Sayer:
    """An engine that says what it is told."""

    parallel = 1

    def __init__(self, answer: Mapping[str, str]) -> None:
        self.answer = answer

    def facts(self, tasks: Sequence[str]) -> dict[str, Any]:
        return {"backbone": {"name": "sayer"}}

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for place, request in enumerate(requests):
            yield place, Answer(self.answer[request.prompt], "end", 5, 5, 0.1)


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    return datasets.read(SAMPLES, tasks=NAMES)


@pytest.fixture(scope="module")
def run(dataset: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    engine = Sayer(answers(dataset.records))
    made = predict(tmp_path_factory.mktemp("run") / "run", engine, dataset, method="sayer")
    return score(made, dataset, resamples=10)


def scores(run: Run) -> dict[str, dict[str, float]]:
    """Each metric of each task of a run, by the harness's name of the task."""
    return {
        pack.harness_name(name): {metric: one["value"] for metric, one in task["scores"].items()}
        for name, task in (run.metrics or {}).items()
    }


def test_the_same_answers_have_the_same_scores_as_in_a_run(dataset, run):
    expected = scores(run)
    said = answers(dataset.records)
    for name in NAMES:
        (documents,) = pack.documents(TASKS[name], {"data": str(SAMPLES)}).values()
        graded = [pack.grade(TASKS[name], one, said[one["input"]]) for one in documents]
        found = {
            metric: over_all([one[metric] for one in graded])
            for metric, over_all in pack.aggregations(TASKS[name]).items()
        }
        main_score = found.pop(pack.SCORE)
        assert found == expected[pack.harness_name(name)]
        assert main_score == 100 * found[TASKS[name].metrics[0]]
    assert len({tuple(one.values()) for one in expected.values()}) > 10  # not all 0 or 1


def test_the_harness_itself_gives_these_scores_and_their_mean(dataset, run):
    pytest.importorskip("lm_eval")
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    said, asked = answers(dataset.records), {}

    class Fixed(LM):
        def generate_until(self, requests, disable_tqdm=False):
            asked.update({request.args[0]: request.args[1] for request in requests})
            return [said[request.args[0]] for request in requests]

        def loglikelihood(self, requests):
            raise AssertionError("all tasks are generated")

        loglikelihood_rolling = loglikelihood

    tasks = TaskManager(
        include_path=str(pack.FOLDER), include_defaults=False, metadata={"data": str(SAMPLES)}
    )
    found = simple_evaluate(Fixed(), tasks=["promptcblue"], task_manager=tasks)["results"]
    expected = scores(run)
    for name, metrics in expected.items():
        assert {metric: found[name][f"{metric},none"] for metric in metrics} == metrics
    means = [metrics[TASKS[pack.NAMES[name]].metrics[0]] for name, metrics in expected.items()]
    assert len(means) == 16
    assert found["promptcblue"]["score,none"] == pytest.approx(100 * sum(means) / 16)
    assert asked.keys() == {record.prompt for record in dataset.records}
    for record in dataset.records:
        request = request_of(record)
        assert asked[record.prompt]["max_gen_toks"] == request.max_new_tokens
        assert asked[record.prompt]["until"] == list(request.stop)
        assert asked[record.prompt]["do_sample"] is False


def test_each_task_has_its_file_and_is_in_the_group():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    files = [yaml.load(path.read_text("utf-8"), Loader) for path in pack.FOLDER.rglob("*.yaml")]
    (group,) = (one for one in files if "group" in one)
    tasks = {one["task"]: one["dataset_name"] for one in files if "group" not in one}
    assert tasks == dict(pack.NAMES)
    assert group["task"] == list(pack.NAMES)
    assert {one["class"] for one in files if "group" not in one} == {
        "evals.runs.harness.task.PromptCBLUETask"
    }
    assert (Path(pack.__file__).parent / "task.py").exists()


def test_a_sample_is_logged_as_its_own_score_and_keeps_its_pair_between_processes(dataset):
    (record,) = dataset.of_task("CHIP-CTC")[:1]
    document = pack.documents(TASKS["CHIP-CTC"], {"data": str(SAMPLES)})["test"][0]
    graded = pack.grade(TASKS["CHIP-CTC"], document, record.target)
    assert json.dumps(graded) == (
        '{"score": 100.0, "macro-f1": 1.0, "accuracy": 1.0, "weighted-f1": 1.0}'
    )
    copied = pickle.loads(pickle.dumps(graded))
    assert [one.pair for one in copied.values()] == [one.pair for one in graded.values()]
    assert copied == graded


def test_the_train_split_serves_for_examples_in_the_prompt(tmp_path):
    line = json.dumps({"task": "MedDG", "input": "问", "target": "答"})
    for folder, names in (("one", ["test"]), ("two", ["test", "train"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.jsonl").write_text(line, encoding="utf-8")
    splits = {
        (folder, split): [
            *pack.documents(TASKS["MedDG"], {"data": str(tmp_path / folder), "split": split})
        ]
        for folder, split in (("one", "test"), ("two", "test"), ("two", "train"))
    }
    assert splits == {
        ("one", "test"): ["test"],
        ("two", "test"): ["test", "train"],
        ("two", "train"): ["train"],
    }


def test_data_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CGCLORA_DATA", raising=False)
    with pytest.raises(DataError, match=r"--metadata .*CGCLORA_DATA"):
        pack.documents(TASKS["MedDG"], {})
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"task": "CHIP-STS", "input": "问", "target": "相同"}), "utf-8")
    with pytest.raises(DataError, match=r"no record of MedDG: .* promptcblue_chip_sts"):
        pack.documents(TASKS["MedDG"], {"data": str(path)})


def test_the_command_names_the_folder_of_the_pack(capsys):
    assert main(["harness"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "promptcblue.yaml").exists()
