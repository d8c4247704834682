"""Tasks of a user's own in the page: forms that adapters describe, and what can be corrected."""

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from transformers import AutoModelForCausalLM

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.data.records import DataError, Record
from cgclora.data.task_table import DESCRIPTIONS, TABLE_FILE
from cgclora.models.backbone import load_backbone
from evals.tasks.recognition import recognise, to_toml
from tests.helpers.queues import Waiting
from tests.helpers.templates import CHATML, save_chat_backbone
from tests.ui.tabs import test_benchmark as benchmark
from tests.ui.tabs import test_train as training
from tests.ui.test_app import loaded_engine, save_adapter
from tests.ui.test_page import tab_of, visitor
from ui.api import Endpoints
from ui.components import forms
from ui.components.own_tasks import Corrections, OwnTasks, listed
from ui.components.widgets import Bilingual
from ui.engine.engine import AppEngine
from ui.engine.models import Models
from ui.tabs.gates.what_if import labels_of
from ui.tabs.jobs.view import task_title
from ui.tabs.try_it import answering
from ui.tabs.try_it.answering import Form
from ui.tabs.try_it.recent import RecentQuestion

MOOD = {
    "title": ["口碑", "Reviews"],
    "kind": "classification",
    "labels": ["好评", "差评"],
    "max_new_tokens": 7,
    "template": "好评还是差评？\n{text}",
    "fields": [{"name": "text", "label": ["评论", "Review"], "multiline": True}],
}
ROUTE = {"kind": "extraction", "reader": "key_values", "description": ["整理行程", "A trip"]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> AppEngine:
    """Two adapters that know a task of the same name; each describes it in its own way."""
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(
        folder / "one", ("mood", "route"), **{DESCRIPTIONS: {"mood": MOOD, "route": ROUTE}}
    )
    other = {"mood": {**MOOD, "title": ["情绪", "Mood"], "template": "情绪：{text}"}}
    save_adapter(folder / "two", ("mood", "plain"), seed=1, **{DESCRIPTIONS: other})
    return loaded_engine(folder)


# Try it -----------------------------------------------------------------------------------


def test_each_adapter_s_own_description_makes_the_form(engine: AppEngine) -> None:
    tab = tab_of(engine)
    for cluster, title, prompt in (
        ("one", "口碑", "好评还是差评？\n面很香"),
        ("two", "情绪", "情绪：面很香"),
    ):
        shown = tab.choose(cluster, "mood", visitor())
        assert (f"{title}\n分类", "mood") in shown[tab.task]["choices"]
        assert f"<h2>{title}</h2>" in shown[tab.task_head]
        assert shown[tab.labels_only]["visible"]
        assert shown[tab.fields.max_tokens] == 7
        assert shown[tab.fields.boxes[0]]["label"] == "评论"
        boxes = ["面很香", *[None] * (len(tab.fields.boxes) - 1)]
        assert tab.fields.make_prompt(cluster, "mood", "", "", *boxes) == (prompt, prompt)
    assert "Reviews" in tab.choose("one", "mood", visitor(lang="en"))[tab.task_head]
    choices = tab.choose("one", "route", visitor())[tab.task]["choices"]
    assert ("route\n整理行程", "route") in choices


def test_an_undescribed_task_maps_a_text_to_a_text(engine: AppEngine) -> None:
    task = forms.task_of(engine, "two", "plain")
    assert (task.title_en, task.kind, task.prompt({"text": "好"})) == ("plain", "generation", "好")
    assert forms.task_of(engine, "nobody's", "mood").kind == "generation"


def test_an_answer_is_parsed_and_the_labels_have_probabilities(engine: AppEngine) -> None:
    mood = forms.task_of(engine, "one", "mood")
    asked = Form("one", mood, {"text": "面很香"}, None, labels_only=True, max_new_tokens=7)
    *_, view = answering.answer(engine, asked, "zh")
    assert not view.problem, view.detail
    assert view.replies[0].text in MOOD["labels"]
    assert "chip big" in view.parsed
    request = engine.request("one", "mood", asked.prompt, 7)
    shares = engine.label_probabilities(request, mood.labels)
    assert all(f"<b>{share:.0%}</b>" in view.labels for share in shares)


def test_the_list_of_recent_questions_has_the_adapter_s_title(engine: AppEngine) -> None:
    recent = tab_of(engine).recent
    asked = RecentQuestion("one", "mood", {"text": "面很香"}, "好评")
    (line,) = (
        value.raw_samples
        for value in recent.add([], asked, "en").values()
        if hasattr(value, "raw_samples")
    )
    assert line == [["Reviews · 面很香 → 好评"]]


# Elsewhere --------------------------------------------------------------------------------


def test_programs_are_told_the_form_of_each_adapter_s_task(engine: AppEngine) -> None:
    listed = Endpoints(engine, None).tasks()["tasks"]  # type: ignore[arg-type]
    found = {(one["cluster"], one["name"]): one for one in listed}
    assert found["one", "mood"]["title"] == {"zh": "口碑", "en": "Reviews"}
    assert found["two", "mood"]["title"] == {"zh": "情绪", "en": "Mood"}
    assert found["one", "mood"]["labels"] == MOOD["labels"]
    assert found["one", "route"]["kind"] == "extraction"


def test_the_gates_tab_compares_the_labels_of_an_own_task(engine: AppEngine) -> None:
    mood = forms.task_of(engine, "one", "mood")
    assert labels_of(mood, "好评还是差评？\n面很香") == ("好评", "差评")
    assert forms.titles(engine, "one", "en") == {"mood": "Reviews", "route": "route"}


# Correcting -------------------------------------------------------------------------------

RECORDS = [
    Record(f"{i}", "换算", f"把 {i} 千米换成米。", f"{i * 1000} <b>米</b>") for i in range(1, 13)
]
ENTRY = {**recognise("换算", RECORDS), "kind": "number", "reader": "number"}
TABLE = to_toml([ENTRY])
TITLED = TABLE.replace('["换算", "换算"]', '["单位换算", "Unit conversion"]')


def own_tasks() -> OwnTasks:
    with gr.Blocks():
        return OwnTasks(Bilingual(), "test")


def test_the_table_is_filled_once_and_then_the_visitor_s() -> None:
    own = own_tasks()
    written, recognised = own.inputs
    first = own.show([ENTRY], {"换算": RECORDS[:1]}, Corrections(), "en")
    assert first[written] == first[recognised] == TABLE
    again = own.show([ENTRY], {}, Corrections(TITLED, TABLE), "en")
    assert not {written, recognised} & again.keys()  # what is being typed is never overwritten
    assert any("Unit conversion" in str(update) for update in again.values())
    other = {**ENTRY, "max_new_tokens": 5}
    assert own.show([other], {}, Corrections(TITLED, TABLE), "en")[written] == to_toml([other])
    nothing = own.show([], {}, Corrections(TITLED, TABLE), "en")
    assert nothing[written] == ""
    assert not any(update.get("visible") for update in nothing.values() if isinstance(update, dict))


def test_a_wrong_table_is_told_and_what_was_recognised_applies() -> None:
    wrong = Corrections(TABLE.replace('"number"', '"song"', 1), TABLE)
    with pytest.raises(DataError, match="kind must be"):
        wrong.entries([ENTRY])
    assert wrong.tasks([ENTRY])["换算"].kind == "number"
    shown = own_tasks().show([ENTRY], {}, wrong, "en")
    assert any("kind must be one of" in str(update) for update in shown.values())
    assert Corrections(TITLED, "of other data").entries([ENTRY]) == (ENTRY,)


def test_the_list_has_form_metric_and_examples_as_text() -> None:
    tasks = [*Corrections(TITLED, TABLE).tasks([ENTRY]).values()]
    page = listed(tasks, {"换算": RECORDS[:2]}, "en")
    for words in ("Unit conversion", "<code>换算</code>", "number", "Numeric match"):
        assert words in page
    assert "<span>1 →</span> 1000 &lt;b&gt;米&lt;/b&gt;" in page


def mine(folder: Path) -> str:
    """A file of a user's own task beside one that is built in."""
    lines = [{"task": r.task, "input": r.prompt, "target": f"{r.id}000 米"} for r in RECORDS]
    lines += [{"task": "NER", "input": f"找人名：{i}", "target": "人名：甲"} for i in range(8)]
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return str(path)


def test_a_training_gets_the_corrected_table_beside_its_data(tmp_path: Path) -> None:
    jobs = Waiting(tmp_path / "runs" / "jobs")
    save_adapter(tmp_path / "adapters" / "one", ("mood",))
    engine = AppEngine(tmp_path / "adapters", models=Models(lambda progress: None))  # type: ignore[arg-type, return-value]
    tab = training.tab_of(engine, jobs, tmp_path / "runs")
    given = {"source": "upload", "train_file": mine(tmp_path)}
    english = training.ENGLISH
    first = tab.inspect(english, *training.filled_in(tab, **given))
    written = first[tab.form.own.written]
    edited = written.replace('["换算", "换算"]', '["单位换算", "Unit conversion"]')
    assert edited != written
    given |= {"own_written": edited, "own_recognised": written}
    assert "Unit conversion" in str(
        tab.inspect(english, *training.filled_in(tab, **given))[tab.form.report]
    )
    wrong = {**given, "own_written": "[[tasks"}
    outcome = tab.submit(english, *training.filled_in(tab, **wrong))
    assert "cannot be read as TOML" in outcome[tab.outcome]
    tab.submit(english, *training.filled_in(tab, **given))
    (job,) = jobs.all()
    (stored,) = tomllib.loads((job.folder / TABLE_FILE).read_text("utf-8"))["tasks"]
    assert stored["title"] == ["单位换算", "Unit conversion"]
    assert job.clean == ("train.jsonl", "dev.jsonl", TABLE_FILE)
    assert job.facts["titles"] == {"换算": ["单位换算", "Unit conversion"]}


def test_an_evaluation_gets_the_corrected_table_beside_its_file(tmp_path: Path) -> None:
    jobs = Waiting(tmp_path / "runs" / "jobs")
    engine = AppEngine(tmp_path / "adapters", models=Models(lambda progress: None))  # type: ignore[arg-type, return-value]
    tab = benchmark.tab_of(engine, jobs)
    request = SimpleNamespace(session_hash="one", query_params={"lang": "en"}, headers={})
    form = ("backbone", "upload", mine(tmp_path))
    first = tab.choose_data(request, *form, [], 5)  # type: ignore[arg-type]
    written = first[tab.own.written]
    edited = written.replace('["换算", "换算"]', '["单位换算", "Unit conversion"]')
    shown = tab.correct(request, *form, ["换算"], 5, edited, written)  # type: ignore[arg-type]
    assert ("Unit conversion · 12", "换算") in shown[tab.tasks]["choices"]
    assert "value" not in shown[tab.tasks]
    tab.submit(request, *form, ["换算"], 5, edited, written)  # type: ignore[arg-type]
    (job,) = jobs.all()
    (stored,) = tomllib.loads((job.folder / "upload" / TABLE_FILE).read_text("utf-8"))["tasks"]
    assert stored["title"] == ["单位换算", "Unit conversion"]
    assert job.clean == ("upload/mine.jsonl", f"upload/{TABLE_FILE}")
    assert task_title(job, "换算", "en") == "Unit conversion"
    assert task_title(job, "NER", "en") == "Named entities"


def test_a_chat_adapter_is_asked_through_its_template(tmp_path: Path) -> None:
    folder = save_chat_backbone(tmp_path / "backbone", CHATML)
    backbone = load_backbone(folder, device="cpu", dtype="float32")
    config = AdapterConfig(("greet",), template=CHATML, system="简短")
    adapter = Adapter.attach(backbone, config)
    adapter.save(tmp_path / "adapters" / "chat")  # untrained: its answers are the backbone's
    engine = AppEngine(
        tmp_path / "adapters",
        Models(lambda progress: load_backbone(folder, device="cpu", dtype="float32")),
    )
    engine.start()
    assert engine.wait(60)
    asked = Form(
        "chat", forms.task_of(engine, "chat", "greet"), {"text": "你好"}, None, False, 8, ()
    )
    *_, view = answering.answer(engine, asked, "zh")
    turns = [{"role": "system", "content": "简短"}, {"role": "user", "content": asked.prompt}]
    tokenizer, model = backbone.tokenizer, AutoModelForCausalLM.from_pretrained(folder)
    told = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
    ids = told["input_ids"]
    expected = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    words = tokenizer.decode(expected, skip_special_tokens=True)
    assert view.replies[0].text == words.rstrip("\ufffd")  # half a character is not said
    assert not view.problem
