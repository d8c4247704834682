"""The app without a browser: figures, words, engine, HTML, endpoints."""

import json
import re
import string
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch

import app
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.inference.request import Answer, Piece
from cgclora.models.backbone import Backbone
from evals.tasks import CHOICES, TASKS
from tests.helpers.colours import contrast
from tests.helpers.tiny import make_backbone
from tests.helpers.tiny_models import tiny_models
from ui.components import forms, render
from ui.components.answering_models import AnsweringModel
from ui.components.figures import gate_heat_map, share_bar
from ui.components.texts import I18N, LANGUAGES, STAGES, TEXTS, language_of, text
from ui.components.theme import COMMON, FROZEN, SPECIFIC
from ui.engine.client import EngineError, Wait
from ui.engine.engine import AppEngine, Status
from ui.engine.models import Models
from ui.engine.questions import BARE, BARE_TOKENS
from ui.engine.settings import AppLimits, Settings
from ui.engine.task_gates import TaskGates
from ui.tabs.try_it import answering
from ui.tabs.try_it.answering import Form

MODEL = AnsweringModel("general", "adapted", "<b>general</b>", "<i>note</i>", "#3b7dc4")
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)> ${1+1} {{x}}"


def save_adapter(
    folder: Path, tasks: tuple[str, ...], *, seed: int = 0, **facts: object
) -> Backbone:
    """An adapter whose experts and gate are not zero, on a fresh tiny backbone."""
    backbone = make_backbone()
    adapter = Adapter.attach(backbone, AdapterConfig(tasks=tasks), name="saved", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
    adapter.save(folder, facts=facts)
    return backbone


def ask(
    engine: AppEngine, name: str, task: str, prompt: str, most: int, *, beside: Sequence[str] = ()
) -> Generator[Piece | Wait]:
    """The answers of an adapter and of those beside it."""
    names = (name, *beside)
    return engine.ask([engine.request(each, task, prompt, most) for each in names])


def pieces(engine: AppEngine, *question: Any, beside: Sequence[str] = ()) -> list[Piece]:
    """The pieces of the answers to a question, see `ask`."""
    asked = ask(engine, *question, beside=beside)
    return [piece for piece in asked if not isinstance(piece, Wait)]


def save_adapters(folder: Path) -> Path:
    """Two usable adapters and two that are not."""
    save_adapter(folder / "general", ("SentimentAnalyze", "NER", "Couplet"))
    save_adapter(folder / "my-own", ("greet", "<b>bold</b>"))
    save_adapter(folder / "damaged", ("x",))
    (folder / "damaged" / "adapter.safetensors").write_bytes(b"no tensors here")
    (folder / "empty").mkdir()
    return folder


def loaded_engine(folder: Path) -> AppEngine:
    """An engine whose loading has ended."""
    engine = AppEngine(folder, tiny_models())
    engine.start()
    assert engine.wait(60)
    return engine


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def engine(adapters: Path) -> AppEngine:
    engine = loaded_engine(adapters)
    assert engine.status.ready, engine.status
    return engine


def some_gates(common: int = 2, specific: int = 1) -> TaskGates:
    layers = tuple(f"model.layers.{depth}.{kind}" for depth in range(3) for kind in ("q", "up"))
    weights = np.random.default_rng(0).dirichlet(np.ones(common + specific), size=len(layers))
    return TaskGates("NER", layers, weights, common)


# Gates and figures --------------------------------------------------------------------------


def test_shares_are_the_mean_over_all_layers_and_add_up_to_one() -> None:
    gates = some_gates()
    expected = [sum(row[e] for row in gates.weights) / len(gates.layers) for e in range(3)]
    assert gates.shares() == pytest.approx(expected)
    assert gates.shares().sum() == pytest.approx(1)
    assert gates.common_share() == pytest.approx(expected[0] + expected[1])


def test_shares_of_a_plain_sum_add_up_to_one() -> None:
    gates = TaskGates("NER", ("a", "b"), np.ones((2, 5)), common=4)
    assert gates.common_share() == pytest.approx(0.8)


def test_the_bar_shows_the_shares() -> None:
    gates = some_gates()
    bars = share_bar(gates).data
    assert [bar.x[0] for bar in bars] == pytest.approx(list(gates.shares()))
    assert [bar.marker.color for bar in bars] == [COMMON, COMMON, SPECIFIC]


def test_the_heat_map_shows_the_gates_of_one_module() -> None:
    gates = some_gates()
    common, specific = gate_heat_map(gates, "up").data
    for depth in range(3):
        row = gates.weights[gates.layers.index(f"model.layers.{depth}.up")]
        assert [common.z[e][depth] for e in (0, 1)] == pytest.approx(list(row[:2]))
        assert specific.z[2][depth] == pytest.approx(row[2])
    assert list(common.x) == ["0", "1", "2"]
    assert all(value is None for value in common.z[2])
    assert all(value is None for row in specific.z[:2] for value in row)


def test_the_heat_map_averages_over_modules_by_default() -> None:
    gates = some_gates()
    common, _ = gate_heat_map(gates).data
    of_layer_one = [w for p, w in zip(gates.layers, gates.weights, strict=True) if ".1." in p]
    assert common.z[0][1] == pytest.approx(sum(w[0] for w in of_layer_one) / 2)


def test_the_heat_map_says_what_its_palest_and_strongest_colours_mean() -> None:
    gates = some_gates()
    figure = gate_heat_map(gates, "up", "en")
    of_up = [w for p, w in zip(gates.layers, gates.weights, strict=True) if p.endswith("up")]
    least, most = min(map(min, of_up)), max(map(max, of_up))
    assert f"({least:.2f} to {most:.2f})" in figure.layout.xaxis.title.text
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(least, most)}


def test_the_heat_map_s_numbers_can_be_read_out() -> None:
    gates = some_gates()
    table = render.gate_table(gates, "up", "en")
    assert table.count('<th scope="col">') == 3
    assert table.count('<th scope="row">') == 3
    for path, weights in zip(gates.layers, gates.weights, strict=True):
        cells = "".join(f"<td>{weight:.3f}</td>" for weight in weights)
        assert (cells in table) == path.endswith("up")


def test_small_words_on_figures_are_readable() -> None:
    for bar in share_bar(some_gates()).data:
        assert bar.textfont.color == "black"
        assert contrast("#000000", bar.marker.color) >= 4.5
    assert contrast(gate_heat_map(some_gates()).layout.font.color, "#fbfbfc") >= 4.5


def test_equal_weights_are_drawn_alike() -> None:
    uniform = TaskGates("NER", ("model.layers.0.q",), np.full((1, 5), 0.2), common=4)
    assert {(trace.zmin, trace.zmax) for trace in gate_heat_map(uniform).data} == {(0.0, 0.2)}


@pytest.mark.parametrize(("common", "specific"), [(1, 0), (0, 2), (8, 0)])
def test_figures_of_every_method_can_be_drawn(common: int, specific: int) -> None:
    gates = some_gates(common, specific)
    assert json.loads(share_bar(gates, "en").to_json())["data"]
    assert json.loads(gate_heat_map(gates, None, "en").to_json())["data"]


def test_figures_fetch_nothing_and_leave_the_background_to_the_page() -> None:
    for figure in (share_bar(some_gates()), gate_heat_map(some_gates())):
        assert "http" not in figure.to_json()
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


# Words ----------------------------------------------------------------------------------------


def test_every_text_is_there_in_both_languages_with_the_same_places_to_fill() -> None:
    for key, words in TEXTS.items():
        assert len(words) == len(LANGUAGES), key
        assert all(word.strip() for word in words), key
        places = [{p[1] for p in string.Formatter().parse(word) if p[1]} for word in words]
        assert places[0] == places[1], key
    assert set(I18N.translations) == set(LANGUAGES)


def test_chinese_texts_are_chinese_and_english_ones_are_not() -> None:
    def chinese(word: str) -> bool:
        return any("\u4e00" <= letter <= "\u9fff" for letter in word)

    for key, words in TEXTS.items():
        # The language button alone says the other language's name.
        zh, en = reversed(words) if key == "other_language" else words
        is_name = zh == en  # such as CGC-LoRA
        assert chinese(zh) or is_name or not any(letter.isalpha() for letter in zh), key
        assert not chinese(en), key


def test_every_task_of_the_collections_has_words_for_its_kind() -> None:
    assert all(text(task.kind, "en") for task in TASKS.values())


@pytest.mark.parametrize(
    ("query", "header", "expected"),
    [
        ({}, "", "zh"),
        ({}, "en-GB,en;q=0.9,zh;q=0.8", "en"),
        ({}, "zh-TW,zh;q=0.9,en;q=0.8", "zh"),
        ({}, "fr-FR,fr;q=0.9,en;q=0.8", "en"),
        ({"lang": "zh"}, "en-US", "zh"),
        ({"lang": "en"}, "zh-CN", "en"),
        ({"lang": "<script>"}, "de", "zh"),
    ],
)
def test_the_language_is_the_address_s_then_the_browser_s_then_chinese(
    query: dict[str, str], header: str, expected: str
) -> None:
    asked = SimpleNamespace(query_params=query, headers={"accept-language": header})
    assert language_of(asked) == expected  # type: ignore[arg-type]


def test_the_style_sheet_has_the_same_three_colours() -> None:
    css = (Path(app.__file__).parent / "assets" / "style" / "base.css").read_text("utf-8")
    for name, colour in (("frozen", FROZEN), ("common", COMMON), ("specific", SPECIFIC)):
        assert f"--{name}: {colour};" in css
    assert "http" not in css
    assert "@import" not in css


# HTML -----------------------------------------------------------------------------------------


def test_markup_from_models_and_visitors_is_shown_as_text(engine: AppEngine) -> None:
    label = TASKS["SentimentAnalyze"].parse(MARKUP)
    entities = TASKS["NER"].parse(f"人名：{MARKUP}\n{MARKUP}")
    pages = [
        render.answer_card(MODEL, render.Reply("done", MARKUP, (MARKUP,), against="a"), "en"),
        render.parsed_answer(label, "en", reference=label, reference_text=MARKUP),
        render.parsed_answer(entities, "en", reference=entities, reference_text=MARKUP),
        render.notice(MARKUP, MARKUP),
        render.task_head(forms.task_of(engine, "my-own", MARKUP), "en"),
    ]
    for page in pages:
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(("state", "grows"), [("live", True), ("done", False), ("empty", False)])
def test_an_answer_is_not_read_out_while_it_grows(state: render.State, grows: bool) -> None:
    card = render.answer_card(MODEL, render.Reply(state, "你好"), "zh")
    assert ('aria-busy="true"' in card) == grows
    assert "aria-live" not in card  # it would be a new region with every piece


def test_lines_that_cannot_be_parsed_are_shown() -> None:
    parsed = TASKS["NER"].parse("人名：小林\n我不知道")
    page = render.parsed_answer(parsed, "zh")
    assert "小林" in page
    assert "我不知道" in page


def test_mentions_are_marked_in_the_text_the_longer_one_first() -> None:
    parsed = TASKS["NER"].parse("地名：北京，北京西站")
    pieces = forms.highlighted("从北京西站到北京", parsed, "zh")
    assert pieces == [("从", None), ("北京西站", "地名"), ("到", None), ("北京", "地名")]
    assert "".join(piece for piece, _ in pieces) == "从北京西站到北京"


def test_nothing_is_marked_where_no_mention_occurs() -> None:
    assert forms.highlighted("今天下雨", TASKS["NER"].parse("人名：小林"), "zh") == []


# AppEngine ---------------------------------------------------------------------------------------


def test_a_damaged_adapter_is_named_and_the_others_work(engine: AppEngine) -> None:
    assert set(engine.problems) == {"damaged", "empty"}
    assert engine.clusters() == ("general", "my-own")
    page = render.problems(engine, "en")
    assert "damaged" in page
    assert str(engine.folder) not in page


def test_an_adapter_whose_saving_was_killed_keeps_its_place(tmp_path: Path) -> None:
    save_adapters(tmp_path / "shipped")
    save_adapter(tmp_path / "runs" / "mine" / "adapter", ("NER",))
    for folder in (tmp_path / "shipped" / "general", tmp_path / "runs" / "mine" / "adapter"):
        folder.rename(folder.with_name(f".{folder.name}.old"))
    engine = AppEngine(tmp_path / "shipped", tiny_models(), tmp_path / "runs")
    assert {"general", "mine"} <= engine.configs.keys()


def test_tasks_are_known_before_the_model_is_loaded(adapters: Path) -> None:
    engine = AppEngine(adapters, tiny_models())
    assert engine.configs["general"].tasks == ("SentimentAnalyze", "NER", "Couplet")
    assert not engine.status.ready


def test_a_backbone_that_does_not_load_is_a_sentence_on_the_page(adapters: Path) -> None:
    def broken(progress: Callable[[str, float], None]) -> Backbone:
        raise RuntimeError("the disk is full: make room")

    engine = AppEngine(adapters, Models(broken))
    engine.start()
    assert engine.wait(60)
    assert "make room" in render.problems(engine, "en")
    with pytest.raises(EngineError, match="make room"):
        ask(engine, "general", "NER", "你好", 4)


def test_chinese_pages_name_the_stages_of_loading_in_chinese() -> None:
    root = Path(app.__file__).parent
    files = ("cgclora/models/backbone.py", "cgclora/models/embedded.py", "ui/engine/models.py")
    source = "".join((root / file).read_text("utf-8") for file in files)
    for start, words in STAGES.items():
        assert re.search(f'"{start}[ "]', source), start
        page = render.status(Status(f"{start} something", 0.5), "zh")
        assert words in page
        assert start not in page


def test_the_others_work_only_if_there_are_others(adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    others = text("others_work", "zh")
    pages = [
        render.problems(AppEngine(folder, tiny_models()), "zh") for folder in (adapters, tmp_path)
    ]
    assert [others in page for page in pages] == [True, False]


def test_without_adapters_the_page_says_how_to_train_one(tmp_path: Path) -> None:
    engine = AppEngine(tmp_path / "none", tiny_models())
    assert engine.clusters() == ()
    assert "python -m cgclora train" in render.problems(engine, "en")


def test_gates_are_the_adapter_s_own(engine: AppEngine, adapters: Path) -> None:
    adapter = Adapter.load(adapters / "general", make_backbone())
    expected = adapter.gates()[:, 1]  # NER
    gates = engine.gates("general", "NER")
    usable = [*range(4), 5]
    assert gates.weights == pytest.approx(expected[:, usable].numpy(), abs=1e-6)
    assert expected.sum(-1) == pytest.approx(gates.weights.sum(axis=1), abs=1e-6)
    assert gates.layers == tuple(adapter.layers)


def test_both_sides_are_answered_in_one_batch_and_the_bare_one_is_capped(engine: AppEngine) -> None:
    found = pieces(engine, "general", "NER", "你好", BARE_TOKENS + 8, beside=(BARE,))
    answers = {piece.index: piece.answer for piece in found if piece.answer}
    assert set(answers) == {0, 1}
    assert answers[1].tokens <= BARE_TOKENS
    assert answers[0].text != answers[1].text


def test_closing_the_stream_leaves_the_engine_free(engine: AppEngine) -> None:
    asked = ask(engine, "general", "NER", "你好", 64)
    next(asked)
    asked.close()
    assert list(ask(engine, "general", "NER", "你好", 2))


def test_several_questions_at_once_get_the_answers_they_get_alone(engine: AppEngine) -> None:
    questions = [("general", "NER"), ("general", "Couplet"), ("my-own", "greet")]

    def answers(question: tuple[str, str]) -> list[str]:
        found = pieces(engine, *question, "你好", 12)
        return [piece.answer.text for piece in found if piece.answer]

    alone = [answers(question) for question in questions]
    together: list[list[str]] = [[] for _ in questions]
    threads = [
        threading.Thread(target=lambda i=i, q=q: together.__setitem__(i, answers(q)))
        for i, q in enumerate(questions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert together == alone


# Answering ------------------------------------------------------------------------------------


def form(task: str, values: dict[str, str], **changes: object) -> Form:
    settings = {"own_prompt": None, "labels_only": False, "max_new_tokens": 6}
    cluster = "general" if task in TASKS else "my-own"
    undescribed = AppEngine(Path("nowhere"), tiny_models())
    task_form = forms.task_of(undescribed, cluster, task)
    return Form(cluster, task_form, values, **{**settings, **changes})


def test_an_empty_field_is_named(engine: AppEngine) -> None:
    *_, view = answering.answer(engine, form("NER", {"text": " "}), "zh")
    assert "新闻语句" in view.problem


def test_a_too_long_input_is_refused_with_both_numbers(engine: AppEngine) -> None:
    asked = form("NER", {"text": "长" * AppLimits.characters})
    *_, view = answering.answer(engine, asked, "en")
    assert str(AppLimits.characters) in view.problem


def test_what_the_model_refuses_becomes_a_sentence(engine: AppEngine) -> None:
    *_, view = answering.answer(engine, form("NER", {"text": "长" * 400}), "en")  # 256 positions
    assert "shorten it" in view.problem
    assert "256 tokens" in view.detail


def test_what_a_library_says_in_english_stands_below_a_chinese_sentence(engine: AppEngine) -> None:
    *_, view = answering.answer(engine, form("NER", {"text": "长" * 400}), "zh")
    assert "请缩短" in view.problem
    assert not re.search("[a-z]{3}", view.problem)
    page = render.notice(view.problem, verbatim=view.detail)
    assert f'<pre lang="en">{view.detail}</pre>' in page


def test_a_list_without_an_item_is_named() -> None:
    (task, *_) = [task for task in TASKS.values() if CHOICES in {f.name for f in task.fields}]
    values = {field.name: "，" if field.name == CHOICES else "咳嗽" for field in task.fields}
    missing = forms.missing_field(task, values)
    assert missing is not None
    assert missing.name == CHOICES


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("IMCS-V2-NER", {"text": "宝宝咳嗽", CHOICES: "症状，药物类别，医疗操作"}, "宝宝咳嗽"),
        ("CHIP-CDN", {"text": "右肺结节转移可能大", CHOICES: "肺占位"}, "肺占位"),
        ("CHIP-STS", {"text_a": "一", "text_b": "二三"}, "二三"),
    ],
)
def test_mentions_are_looked_for_where_answers_come_from(
    task: str, values: dict[str, str], expected: str
) -> None:
    assert forms.searched(TASKS[task], values) == expected


def test_only_labels_are_said_when_only_labels_are_allowed(engine: AppEngine) -> None:
    asked = form("SentimentAnalyze", {"text": "好"}, labels_only=True, max_new_tokens=32)
    *_, view = answering.answer(engine, asked, "zh")
    assert view.problem == ""
    assert {reply.text for reply in view.replies} <= {"积极", "消极"}
    assert view.replies[0].text in view.parsed


def test_a_sample_as_it_stands_is_judged_and_an_edited_one_is_not(engine: AppEngine) -> None:
    (sample, *_) = forms.samples(TASKS["SentimentAnalyze"])
    *_, judged = answering.answer(engine, form("SentimentAnalyze", sample.fields), "zh")
    *_, own = answering.answer(engine, form("SentimentAnalyze", {"text": "好"}), "zh")
    assert judged.replies[0].right is not None
    assert sample.reference in judged.parsed
    assert own.replies[0].right is None


@pytest.mark.parametrize("task", ["KUAKE-QIC", "SentimentAnalyze"])
def test_silence_is_neither_right_nor_wrong(task: str) -> None:
    sample = forms.samples(TASKS[task])[0]
    asked, silence = form(task, sample.fields), Answer("", "end", 9, 1, 0.1)
    reply = answering.finished_reply(silence, asked, "en")
    assert reply.right is None
    view = answering.judged_view(answering.View((MODEL, MODEL), (reply, reply)), asked, "en")
    assert sample.reference in view.parsed
    assert "verdict" not in view.parsed
    assert "chip" not in view.parsed


def test_stopping_keeps_what_has_been_said_and_ends_the_work(engine: AppEngine) -> None:
    asked = form("Couplet", {"text": "春"}, max_new_tokens=200)
    started = time.monotonic()
    *_, view = answering.answer(engine, asked, "en", stopped=lambda: True)
    assert time.monotonic() - started < 5
    said = replace(view, replies=(replace(view.replies[0], text="花"), view.replies[1]))
    stopped = answering.stopped_view(said, "en")
    assert [reply.state for reply in stopped.replies] == ["done", "done"]
    assert "stopped" in stopped.replies[0].facts
    assert stopped.replies[0].text == "花"


def test_a_question_that_waits_for_the_model_can_be_stopped(adapters: Path) -> None:
    engine = AppEngine(adapters, tiny_models())  # never started
    asked = form("NER", {"text": "你好"})
    (view,) = answering.answer(engine, asked, "en", stopped=lambda: True)
    assert view.replies[0].state == "live"


def test_a_task_that_nobody_described_takes_text_and_gives_text(engine: AppEngine) -> None:
    *_, view = answering.answer(engine, form("greet", {"text": "你好 {name}"}), "en")
    assert view.problem == ""
    assert view.replies[0].state == "done"


def test_the_theme_asks_for_no_outside_font() -> None:
    from ui.components.theme import theme

    made = theme()
    assert isinstance(made, gr.themes.Base)
    assert "http" not in " ".join(made._stylesheets)


@pytest.mark.parametrize(
    ("environment", "allowed"),
    [
        ({}, True),
        ({"GRADIO_SERVER_NAME": "127.0.0.1"}, True),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
        ({"SPACE_ID": "somebody/space"}, False),
        ({"GRADIO_SHARE": "True"}, False),
        ({"SPACE_ID": "somebody/space", "CGCLORA_ALLOW_JOBS": "1"}, True),
        ({"CGCLORA_ALLOW_JOBS": "0"}, False),
    ],
)
def test_jobs_are_for_those_at_the_machine_unless_it_is_said_otherwise(
    environment: dict[str, str], allowed: bool
) -> None:
    assert Settings.from_environment(environment).jobs_allowed is allowed
