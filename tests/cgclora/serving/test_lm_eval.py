"""lm-evaluation-harness asks the server, and gets what its own backend for transformers gets.

Run with `pip install 'lm_eval[api]'` and `pytest -m lm_eval`; our own sentences, no network.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgclora.adapter import Adapter
from cgclora.convert.merged import export_merged
from tests.helpers.serving import Served, serve
from tests.helpers.tiny import make_backbone, save_backbone

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytestmark = pytest.mark.lm_eval

RECORDS = [
    {"question": "今天天气很好，我们去公园散步。", "choices": ["高兴", "难过 😀", "x"], "label": 0},
    {"question": "头痛和发热是感冒的常见症状。", "choices": ["健康", "天气"], "label": 1},
    {"question": "The cat sat on the mat.", "choices": ["a cat", "the dog", "天"], "label": 2},
]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
CHOICE = """
task: choice
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: label
target_delimiter: "\\n"
metric_list: [{metric: acc}]
"""
WRITE = """
task: write
output_type: generate_until
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n", "!!"], max_gen_toks: 9}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def served(folders: Path) -> Iterator[Served]:
    with serve(folders) as found:
        yield found


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both tasks and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "records.jsonl"
    data.write_text("\n".join(json.dumps(one) for one in RECORDS), "utf-8")
    for name, text in (("choice", CHOICE), ("write", WRITE)):
        (folder / f"{name}.yaml").write_text(COMMON.format(data=data) + text, "utf-8")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(os.environ, "HF_DATASETS_OFFLINE", "1")


def asked(
    tasks: Path, name: str, backend: str, args: dict[str, Any], *, chat: bool = False
) -> list[Any]:
    """The harness's raw answers to a task: texts, or pairs of log-likelihood and whether greedy."""
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=backend,
        model_args=args,
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
        device="cpu",
    )
    samples = sorted(found["samples"][name], key=lambda one: one["doc_id"])
    return [response for one in samples for responses in one["resps"] for response in responses]


@pytest.mark.parametrize("batch", [{}, {"batch_size": 3}, {"num_concurrent": 3}])
@pytest.mark.parametrize("model", ["tiny-qwen2", "a"])
def test_loglikelihoods_are_those_of_the_harness_itself(
    served, folders, backbone_folder, tasks, tmp_path, model, batch
):
    folder = backbone_folder
    if model == "a":  # merged, since the harness drops unused embeddings where it loads with PEFT
        backbone, folder = make_backbone(), tmp_path / "merged"
        adapter = Adapter.load(folders / "small", backbone)
        export_merged(adapter, "a", folder, backbone.tokenizer)
    own = {"pretrained": str(folder), "dtype": "float32"}
    expected = asked(tasks, "choice", "hf", own)
    args = {"model": model, "base_url": f"{served.url}/completions"}
    args |= {"tokenizer": str(backbone_folder), "add_bos_token": True}  # as its backend hf does
    found = asked(tasks, "choice", "local-completions", {**args, **batch})
    assert len(found) == len(expected) == sum(len(one["choices"]) for one in RECORDS)
    for (logprob, greedy), (own_logprob, own_greedy) in zip(found, expected, strict=True):
        assert float(logprob) == pytest.approx(float(own_logprob), abs=1e-3)
        assert greedy == own_greedy


def test_answers_are_those_of_the_harness_itself(served, backbone_folder, tasks):
    own = {"pretrained": str(backbone_folder), "dtype": "float32"}
    expected = asked(tasks, "write", "hf", own)
    args = {"model": "tiny-qwen2", "base_url": f"{served.url}/completions"}
    args |= {"tokenizer": str(backbone_folder), "add_bos_token": True}  # as its backend hf does
    found = asked(tasks, "write", "local-completions", args)
    assert [one.rstrip("\ufffd") for one in expected] == found


def test_chats_are_answered(served, tasks):
    args = {"model": "a", "base_url": f"{served.url}/chat/completions"}
    found = asked(tasks, "write", "local-chat-completions", args, chat=True)
    expected = [served.expected("a", one["question"], 9, stop=("\n", "!!")).text for one in RECORDS]
    assert found == expected
