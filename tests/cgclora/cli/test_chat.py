"""From a file of conversations to answers: an adapter keeps the template of its training."""

import json
from pathlib import Path

import pytest

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import PromptFormat
from cgclora.convert.native import export_adapter
from cgclora.data.chat import Message, encode_prompts
from cgclora.data.readers import read_records
from cgclora.data.template import TEMPLATE_FILE
from cgclora.inference.engine import Engine
from cgclora.inference.request import DecodingError, Request, encode_requests
from cgclora.models.backbone import Backbone, load_backbone
from cgclora.storage.adapter_dir import read_manifest
from tests.helpers.records import lines
from tests.helpers.templates import CHATML, GEMMA, save_chat_backbone

FORM = PromptFormat(template=CHATML, system="简短")
TURNS = (Message("user", "你好"), Message("assistant", "好"), Message("user", "再问"))


def conversation(number: int) -> dict[str, object]:
    turns = [("human", f"问 {number}"), ("gpt", "好"), ("human", "再问"), ("gpt", "很好")]
    return {"conversations": [{"from": who, "value": text} for who, text in turns]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny chat model, ShareGPT files and a run with the model's own template."""
    made = tmp_path_factory.mktemp("chat")
    save_chat_backbone(made / "backbone", CHATML)
    for name, count in (("train", 8), ("dev", 2)):
        lines(made / f"{name}.jsonl", *map(conversation, range(count)))
    assert main([*training(made), "--system", "简短", "--run", str(made / "run")]) == 0
    return made


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder / "backbone", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def adapter(folder: Path, backbone: Backbone) -> Adapter:
    return Adapter.load(folder / "run" / "adapter", backbone).for_inference()


def placed(folder: Path) -> list[str]:
    return ["--backbone", str(folder / "backbone"), "--device", "cpu", "--dtype", "float32"]


def training(folder: Path, *more: str) -> list[str]:
    files = ("--data", str(folder / "train.jsonl"), "--dev", str(folder / "dev.jsonl"))
    how = ("--epochs", "1", "--evaluations", "1", "--batch-size", "4", "--task", "talk")
    return ["train", *placed(folder), *files, *how, *more]


def test_a_run_keeps_the_template_and_trains_on_all_answers(
    folder: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, config = read_manifest(folder / "run" / "adapter")
    assert (config.tasks, config.prompt_format) == (("talk",), FORM)
    assert manifest["training"]["records"] == {"train": 8, "dev": 2}
    plain = training(folder, "--template", "plain", "--run", str(folder / "plain"))
    assert main(plain) == 0
    said = capsys.readouterr().err
    assert "left out 8 later turns" in said
    assert "with a chat template all are trained" in said
    other, config = read_manifest(folder / "plain" / "adapter")
    assert config.prompt_format == PromptFormat()
    assert other["training"]["train_data"] != manifest["training"]["train_data"]


def test_runs_side_by_side_may_differ_in_their_templates(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "gemma.jinja").write_text(GEMMA, encoding="utf-8")
    runs = tmp_path / "runs.toml"
    runs.write_text(
        f'[own]\n[plain]\ntemplate = "plain"\n[file]\ntemplate = "{tmp_path / "gemma.jinja"}"\n'
        'template-option = ["a=true", "b=text"]\n',
        encoding="utf-8",
    )
    assert main(training(folder, "--runs", str(runs), "--run", str(tmp_path / "runs"))) == 0
    formats = {
        name: read_manifest(tmp_path / "runs" / name / "adapter")[1].prompt_format
        for name in ("own", "plain", "file")
    }
    told = (("a", True), ("b", "text"))
    assert formats == {
        "own": PromptFormat(template=CHATML),
        "plain": PromptFormat(),
        "file": PromptFormat(template=GEMMA, template_options=told),
    }


def test_what_is_trained_is_shown_with_marks_counts_and_lengths(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", str(folder / "train.jsonl"), "--task", "talk", "--show", "1"]
    command += ["--backbone", str(folder / "backbone"), "--system", "简短"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert (
        "<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n问 0<|im_end|>\n"
        "<|im_start|>assistant\n[[好<|im_end|>]]\n<|im_start|>user\n再问<|im_end|>\n"
        "<|im_start|>assistant\n[[很好<|im_end|>]]\n"
    ) in said
    assert "问 1" not in said
    assert "prompts: chat template" in said
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (task,) = facts["tasks"]
    assert (task["task"], task["records"], task["sequences"], task["answers"]) == ("talk", 8, 8, 16)
    trained = [piece for piece in facts["shown"][0] if piece["trained"]]
    assert task["trained"] == 8 * sum(len(piece["ids"]) for piece in trained)
    assert main([*command, "--template", "plain"]) == 0
    assert "left out: 8 later turns" in capsys.readouterr().out
    assert main(command[:2] + command[4:]) == 4
    assert "--task NAME" in capsys.readouterr().err


def test_an_adapter_answers_by_its_own_template_whatever_the_tokenizers_is(
    folder: Path, backbone: Backbone, adapter: Adapter
) -> None:
    (expected,) = encode_prompts([TURNS], backbone.tokenizer, FORM)
    backbone.tokenizer.chat_template = GEMMA
    try:
        asked = [
            Request("talk", messages=TURNS),
            Request("talk", "你好"),
            Request(None, messages=TURNS),
            Request(None, "你好"),
            Request("talk", "你好", separator=""),
        ]
        found = [one.ids for one in encode_requests(backbone, asked, adapter)]
        bare = PromptFormat(template=GEMMA)
        assert found == [
            expected,
            encode_prompts(["你好"], backbone.tokenizer, FORM)[0],
            encode_prompts([TURNS], backbone.tokenizer, bare)[0],
            encode_prompts(["你好"], backbone.tokenizer, "\n")[0],
            encode_prompts(["你好"], backbone.tokenizer, "")[0],
        ]
    finally:
        backbone.tokenizer.chat_template = CHATML


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("talk", messages=TURNS[:2]), "must end with one of the user"),
        (Request("talk"), "the prompt is empty"),
        (Request("talk", messages=TURNS, separator=""), "has several turns"),
    ],
)
def test_conversations_that_cannot_be_answered_are_refused(
    backbone: Backbone, adapter: Adapter, request_: Request, words: str
) -> None:
    with pytest.raises(DecodingError, match=words):
        Engine(backbone, adapter).generate([request_])
    with pytest.raises(DecodingError, match="give one of them"):
        Request("talk", "a", messages=TURNS)


def test_generate_answers_the_last_question_of_each_conversation(
    folder: Path, backbone: Backbone, adapter: Adapter, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = folder / "dev.jsonl"
    words = ["generate", *placed(folder), "--max-new-tokens", "6", "--file", str(dev), "--json"]
    records = read_records(dev, task="talk")
    for task, more in (
        ("talk", ["--task", "talk", "--adapter", str(folder / "run" / "adapter")]),
        (None, ["--task", "talk"]),
    ):
        requests = [
            Request(task, messages=record.messages[:-1], max_new_tokens=6) for record in records
        ]
        expected = [one.text for one in Engine(backbone, adapter).generate(requests)]
        assert main([*words, *more]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["text"] for line in said] == expected
    adapted = ["--task", "talk", "--adapter", str(folder / "run" / "adapter")]
    assert main([*words, *adapted, "--template", "plain"]) == 2
    assert "of its training" in capsys.readouterr().err


def test_exports_carry_the_template_and_say_how_to_prompt(folder: Path, tmp_path: Path) -> None:
    words = [
        "export",
        "--adapter",
        str(folder / "run" / "adapter"),
        "--backbone",
        str(folder / "backbone"),
    ]
    for name in ("peft", "vllm", "gguf", "merged"):
        out = tmp_path / name
        more = ["--task", "talk"] if name == "merged" else []
        more += ["--base", "me/base"] if name == "vllm" else []
        assert main([*words, "--format", name, "--out", str(out), *more]) == 0
        assert "'content': \"简短\"" in (out / TEMPLATE_FILE).read_text(encoding="utf-8")
        assert "apply_chat_template" in (out / "README.md").read_text(encoding="utf-8")
        assert json.loads((out / "manifest.json").read_text("utf-8"))["system"] == "简短"
    export_adapter(folder / "run" / "adapter", tmp_path / "native")
    alone = (tmp_path / "peft" / TEMPLATE_FILE).read_bytes()
    assert (tmp_path / "native" / TEMPLATE_FILE).read_bytes() == alone
    serve = (tmp_path / "vllm" / "serve.sh").read_text(encoding="utf-8")
    assert f"--chat-template {TEMPLATE_FILE}" in serve
    assert "client.chat.completions" in (tmp_path / "vllm" / "client.py").read_text("utf-8")


def test_an_exported_adapter_and_a_merged_model_make_the_same_prompts(
    folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    words = ["--adapter", str(folder / "run" / "adapter"), "--backbone", str(folder / "backbone")]
    for name in ("peft", "merged"):
        out = tmp_path / name
        assert main(["export", *words, "--task", "talk", "--format", name, "--out", str(out)]) == 0
    (expected,) = encode_prompts([TURNS], backbone.tokenizer, FORM)
    merged = AutoTokenizer.from_pretrained(tmp_path / "merged")
    found = merged.apply_chat_template(
        [one.to_openai() for one in TURNS], add_generation_prompt=True, return_dict=True
    )
    assert found["input_ids"] == expected
    again = ["import", "--peft", str(tmp_path / "peft"), "--task", "talk", *words[2:]]
    assert main([*again, "--out", str(tmp_path / "again")]) == 0
    _, config = read_manifest(tmp_path / "again")
    assert encode_prompts([TURNS], backbone.tokenizer, config.prompt_format) == [expected]
    forced = [*again, "--template", "plain", "--out", str(tmp_path / "plain")]
    assert main(forced) == 0
    assert read_manifest(tmp_path / "plain")[1].prompt_format == PromptFormat()
