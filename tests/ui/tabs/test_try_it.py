"""What stands beside a question: other adapters, differences, probabilities, history, detection."""

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from cgclora.storage import adapter_dir
from evals.methods import method_of
from evals.tasks import TASKS
from tests.helpers.tiny_models import tiny_models
from tests.ui.test_app import MODEL, ask, form, loaded_engine, pieces, save_adapter
from tests.ui.test_page import tab_of, visitor
from ui.components.answering_models import answering_models
from ui.components.render import label_bars, marked
from ui.engine.client import EngineError, Wait
from ui.engine.engine import COMPARED, AppEngine
from ui.engine.questions import BARE
from ui.engine.settings import AppLimits
from ui.server.rates import Rates
from ui.tabs.try_it import answering
from ui.tabs.try_it.answers import MAX_BESIDE
from ui.tabs.try_it.recent import RecentQuestion, read

RIVAL = f"{COMPARED}/lora"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> AppEngine:
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(folder / "general", ("SentimentAnalyze", "NER"))
    save_adapter(folder / COMPARED / "lora", ("SentimentAnalyze",), seed=1)
    return loaded_engine(folder)


# Several adapters -----------------------------------------------------------------------------


def test_an_adapter_to_compare_with_is_a_rival_and_no_cluster(engine: AppEngine) -> None:
    assert engine.clusters() == ("general",)
    assert engine.adapters() == ("general", RIVAL)
    assert engine.rivals("general", "SentimentAnalyze") == (RIVAL,)
    assert engine.rivals("general", "NER") == ()


def test_a_question_to_no_cluster_is_refused_on_the_page(engine: AppEngine) -> None:
    tab = tab_of(engine)
    for cluster in (None, "gone"):
        begun = tab.answers.begin(cluster, [BARE], visitor())  # type: ignore[arg-type]
        assert begun[tab.stop]["visible"]
        refused = tab.answers.refuse(cluster, [], visitor())  # type: ignore[arg-type]
        assert "notice" in refused[tab.answers.cards[0]]["value"]


def test_every_side_answers_as_it_does_alone(engine: AppEngine) -> None:
    def answers(cluster: str, *beside: str) -> list[str]:
        asked = pieces(engine, cluster, "SentimentAnalyze", "你好", 12, beside=beside)
        found = {piece.index: piece.answer for piece in asked if piece.answer}
        return [found[place].text for place in range(1 + len(beside))]

    together = answers("general", RIVAL, BARE)
    assert together == [*answers("general"), *answers(RIVAL), answers("general", BARE)[1]]
    assert len(set(together)) == 3


def test_who_waits_sees_how_many_come_first_and_who_asks_too_much_is_told(tmp_path: Path) -> None:
    save_adapter(tmp_path / "general", ("NER",))
    engine = AppEngine(
        tmp_path,
        tiny_models(AppLimits(at_once=1, waiting=1)),
        rates=Rates(1),
    )
    engine.start()
    assert engine.wait(60)
    asked = replace(form("NER", {"text": "你好"}), beside=())
    with engine.models.backbone.lock:  # type: ignore[union-attr]
        running = [ask(engine, "general", "NER", "你好", 4) for _ in range(2)]
        assert [type(next(one)) for one in running] == [Wait, Wait]
        first = ask(engine, "general", "NER", "你好", 4)
        assert next(first) == Wait(0)
        *_, refused = answering.answer(engine, asked, "zh")
        assert "提问太多" in refused.problem
        assert "1 wait, 1 may" in refused.detail
        first.close()
        views = answering.answer(engine, asked, "en", count=lambda: engine.rates.count(visitor()))
        assert next(views).replies[0].hint  # it waits for its turn now
    *_, view = views
    assert not view.problem
    *_, again = answering.answer(engine, asked, "en", count=lambda: engine.rates.count(visitor()))
    assert "ask again in" in again.detail


def test_the_number_of_those_before_is_said_in_both_languages(engine: AppEngine) -> None:
    view = answering.waiting_view((MODEL,), "zh", ready=True)
    assert "前面还有 3 个" in answering.queued_view(view, 3, "zh").replies[0].hint
    assert "after 3 other" in answering.queued_view(view, 3, "en").replies[0].hint


def test_label_probabilities_are_those_of_the_side_that_is_asked(engine: AppEngine) -> None:
    labels = TASKS["SentimentAnalyze"].labels
    shares = [
        engine.label_probabilities(engine.request(name, "SentimentAnalyze", "好", 8), labels)
        for name in ("general", RIVAL, BARE)
    ]
    assert all(sum(one) == pytest.approx(1) for one in shares)
    assert len({tuple(one) for one in shares}) == 3


def test_an_adapter_that_appears_is_found_and_answers(tmp_path: Path) -> None:
    save_adapter(tmp_path / "shipped" / "general", ("NER",))
    engine = AppEngine(tmp_path / "shipped", tiny_models(), tmp_path / "runs")
    engine.start()
    assert engine.wait(60)
    assert engine.refresh() == ()
    save_adapter(tmp_path / "runs" / "mine" / "adapter", ("Couplet",), seed=2)
    assert engine.refresh() == ("mine",)
    assert engine.clusters() == ("general", "mine")
    assert list(ask(engine, "mine", "Couplet", "你好", 4))
    assert engine.refresh() == ()


def test_a_run_without_an_adapter_yet_is_looked_at_again(tmp_path: Path) -> None:
    save_adapter(tmp_path / "shipped" / "general", ("NER",))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    engine = AppEngine(tmp_path / "shipped", tiny_models(), tmp_path / "runs")
    assert engine.refresh() == ()
    save_adapter(tmp_path / "runs" / "mine" / "adapter", ("Couplet",))
    assert engine.refresh() == ("mine",)


def test_a_shipped_adapter_keeps_its_name_before_a_trained_one(tmp_path: Path) -> None:
    save_adapter(tmp_path / "shipped" / "general", ("NER",))
    save_adapter(tmp_path / "runs" / "general" / "adapter", ("Couplet",))
    engine = AppEngine(tmp_path / "shipped", tiny_models(), tmp_path / "runs")
    assert engine.tasks("general") == ("NER",)
    assert engine.path("general") == tmp_path / "shipped" / "general"


def test_the_bare_backbone_cannot_be_asked_without_any_adapter(tmp_path: Path) -> None:
    save_adapter(tmp_path / "general", ("NER",))
    engine = loaded_engine(tmp_path)
    shutil.rmtree(tmp_path / "general")  # what is loaded stays
    assert list(ask(engine, "general", "NER", "你好", 2, beside=(BARE,)))
    with pytest.raises(EngineError, match="no such folder"):
        ask(engine, "general", "NER", "你好", 2, beside=("nobody",))


def test_a_method_is_what_the_manifest_says_or_what_the_experts_are(engine: AppEngine) -> None:
    config = engine.configs["general"]
    assert method_of(config, {"method": "lora (full)"}) == "LoRA (Full)"
    assert method_of(config, {"method": "somebody's own"}) == "somebody's own"
    assert method_of(config, {}) == "CGC-LoRA"
    uniform = replace(config, gate="uniform")
    assert method_of(uniform, {"method": "cgc-lora"}) == "CGC-LoRA w/o gate"
    assert method_of(type(config).lora(("NER",), 4), {}) == "LoRA (Single)"
    assert method_of(type(config).moe_lora(("NER",), 4, 8), {}) == "MOE-LoRA"


# Side by side ---------------------------------------------------------------------------------


def last_view(engine: AppEngine, **changes: Any) -> answering.View:
    sample = form("SentimentAnalyze", {"text": "这家店很好"}, **changes)
    *_, view = answering.answer(engine, sample, "en")
    return view


def test_all_who_are_asked_have_a_card_and_a_bar_for_each_label(engine: AppEngine) -> None:
    view = last_view(engine, beside=(BARE, RIVAL))
    assert [model.name for model in view.models] == ["general", BARE, RIVAL]
    assert [reply.state for reply in view.replies] == ["done"] * 3
    assert view.labels.count('class="bar"') == 3 * len(TASKS["SentimentAnalyze"].labels)


def test_answers_are_compared_with_the_first(engine: AppEngine) -> None:
    view = last_view(engine, beside=("general",))
    assert view.replies[1].against == view.replies[0].text == view.replies[1].text
    assert "same as the first" in view.replies[1].facts
    other = last_view(engine, beside=(RIVAL,))
    assert "same as the first" not in other.replies[1].facts


def test_what_another_answer_does_not_say_is_marked() -> None:
    assert marked("头痛、发热", "头痛、咳嗽") == "头痛、<mark>发热</mark>"
    assert marked("头痛", "头痛") == "头痛"
    assert marked("<b>头痛", "<b>头疼") == "&lt;b&gt;头<mark>痛</mark>"


def test_texts_with_nothing_in_common_are_not_marked_all_over() -> None:
    assert marked("春风又绿江南岸", "abc") == "春风又绿江南岸"
    assert marked("春风", "") == "春风"


def test_the_likeliest_labels_of_any_side_are_shown_and_the_right_one_is_marked() -> None:
    labels = [f"<{place}>" for place in range(8)]
    shares = [0.3, 0.25, 0.2, 0.1, 0.08, 0.07, 0.0, 0.0]
    other = [0.0] * 7 + [1.0]
    rival = type(MODEL)("x", "rival", "<i>", "", "#112233")
    bars = label_bars(labels, {MODEL: shares, rival: other}, "<7>", "en")
    shown = re.findall(r'<th scope="row">(.*?)</th>', bars)
    assert shown == ["&lt;7&gt;", *(f"&lt;{place}&gt;" for place in range(5))]
    assert '<tr class="right"><th scope="row">&lt;7&gt;' in bars
    assert "2 more labels" in bars
    assert "30%" in bars


# The page -------------------------------------------------------------------------------------


def test_no_more_are_asked_than_there_is_room_for(engine: AppEngine) -> None:
    tab = tab_of(engine)
    many = [BARE, RIVAL, "general", BARE]
    shown = tab.answers.choose_beside("general", many, visitor())
    assert shown[tab.answers.beside] == many[:MAX_BESIDE]
    assert [shown[card]["visible"] for card in tab.answers.cards] == [True] * (1 + MAX_BESIDE)
    fewer = tab.answers.choose_beside("general", [], visitor())
    assert [fewer[card]["visible"] for card in tab.answers.cards] == [True, *[False] * MAX_BESIDE]


def test_only_those_who_know_the_task_are_offered(engine: AppEngine) -> None:
    tab = tab_of(engine)
    offered = tab.choose_task("general", "SentimentAnalyze", visitor())[tab.answers.beside]
    assert [name for _, name in offered["choices"]] == [BARE, RIVAL]
    assert not tab.choose_task("general", "NER", visitor())[tab.answers.beside]["visible"]


def test_an_event_between_two_clusters_changes_nothing(engine: AppEngine) -> None:
    tab = tab_of(engine)
    assert tab.choose_task("general", "Couplet", visitor()) == gr.skip()


def test_a_prompt_of_the_visitor_s_own_stays_while_the_fields_are_empty(engine: AppEngine) -> None:
    tab = tab_of(engine)
    empty: list[str | None] = [None] * len(tab.fields.boxes)
    asked = ("general", "SentimentAnalyze")
    assert tab.fields.make_prompt(*asked, "my own", "", *empty) == gr.skip()
    filled = ["好", *empty[1:]]
    made = TASKS["SentimentAnalyze"].prompt({"text": "好"})
    assert tab.fields.make_prompt(*asked, "my own", "", *filled) == (made, made)
    assert tab.fields.make_prompt(*asked, made, made, *empty) == ("", "")


# Free input -----------------------------------------------------------------------------------


def test_a_text_fills_the_form_of_the_task_that_it_is_for(engine: AppEngine) -> None:
    tab = tab_of(engine)
    words = TASKS["SentimentAnalyze"].prompt({"text": "这家店很好"})
    guesses = tab.free.show(words, visitor())
    assert guesses["choices"] == [("情感分析 100%", "SentimentAnalyze")]
    taken = tab.free.take_best(words, visitor())
    assert taken[tab.task]["value"] == "SentimentAnalyze"
    assert taken[tab.fields.boxes[0]]["value"] == "这家店很好"


def test_an_instruction_in_other_words_becomes_the_prompt_as_it_stands(engine: AppEngine) -> None:
    tab = tab_of(engine)
    words = "请找出下面这句话里的人名和地名：小明在北京。"
    taken = tab.free.take("NER", words, visitor())
    assert taken[tab.fields.prompt] == words
    assert not taken[tab.fields.boxes[0]]["value"]


def test_no_text_is_for_no_task(engine: AppEngine) -> None:
    tab = tab_of(engine)
    assert not tab.free.show("  ", visitor())["visible"]
    assert tab.free.take_best("", visitor()) == gr.skip()
    assert tab.free.take("Couplet", "春风", visitor()) == gr.skip()  # no adapter knows it


# History --------------------------------------------------------------------------------------


def test_a_question_that_was_answered_is_kept_and_comes_back(engine: AppEngine) -> None:
    tab = tab_of(engine)
    asked = RecentQuestion("general", "NER", {"text": "小明在北京"}, "人名：小明")
    kept = tab.recent.add([], asked, "zh")[tab.recent.kept]
    assert read(kept) == [asked]
    back = tab.recent.show_again(0, kept, visitor())
    assert back[tab.task]["value"] == "NER"
    assert back[tab.fields.boxes[0]]["value"] == "小明在北京"
    assert tab.recent.show_again(1, kept, visitor()) == gr.skip()


def test_the_same_question_is_kept_once_and_the_oldest_are_dropped(engine: AppEngine) -> None:
    recent = tab_of(engine).recent
    kept: object = []
    for number in [*range(12), 5]:
        asked = RecentQuestion("general", "NER", {"text": f"{number}"}, "")
        kept = recent.add(kept, asked, "zh")[recent.kept]
    words = [one.values["text"] for one in read(kept)]
    assert words == ["5", "11", "10", "9", "8", "7", "6", "4", "3", "2"]


@pytest.mark.parametrize("stored", [None, "x", {}, [1], [{"cluster": "a"}]])
def test_what_else_lies_in_the_browser_is_left_out(stored: object) -> None:
    assert read(stored) == []
    good = {"cluster": "a", "task": "b", "values": {"c": "d"}, "answer": "e"}
    assert read([{**good, "values": {"c": 5}}, {**good, "values": []}, good]) == [
        RecentQuestion(**good)
    ]  # type: ignore[arg-type]


def test_the_answering_models_are_named_by_cluster_and_method(engine: AppEngine) -> None:
    names = [one.title for one in answering_models(engine, "general", (RIVAL, BARE), "en")]
    assert names == ["General · CGC-LoRA", "CGC-LoRA", "Bare backbone"]


def test_two_answers_that_repeat_themselves_are_compared_at_once() -> None:
    began = time.process_time()
    assert marked("上呼吸道感染，" * 250, "呼吸道感染，" * 300)
    assert time.process_time() - began < 2  # several times what it takes, a tenth of what it took


def test_an_adapter_that_is_not_loaded_yet_is_not_offered(tmp_path: Path) -> None:
    save_adapter(tmp_path / "shipped" / "general", ("NER",))
    engine = AppEngine(tmp_path / "shipped", tiny_models(), tmp_path / "runs")
    engine.start()
    assert engine.wait(60)
    save_adapter(tmp_path / "runs" / "mine" / "adapter", ("Couplet",))
    engine._read_configs()  # as in the moment before it is loaded
    assert engine.clusters() == ("general",)


def test_what_is_wrong_with_one_adapter_is_no_other_s_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(tmp_path / "general", ("NER",))
    save_adapter(tmp_path / "unread", ("Couplet",))
    read = adapter_dir.read_tensors

    def refuse(folder: Path) -> Any:
        if Path(folder).name == "unread":
            raise PermissionError(13, "Permission denied", str(folder))
        return read(folder)

    monkeypatch.setattr(adapter_dir, "read_tensors", refuse)
    engine = loaded_engine(tmp_path)
    assert engine.status.ready
    assert engine.clusters() == ("general",)
    assert "Permission denied" in engine.problems["unread"]


def test_a_question_of_a_task_that_the_adapter_no_longer_knows_stays_where_it_is(
    engine: AppEngine,
) -> None:
    tab = tab_of(engine)
    kept = tab.recent.add([], RecentQuestion("general", "Couplet", {"text": "春"}, ""), "zh")
    assert tab.recent.show_again(0, kept[tab.recent.kept], visitor()) == gr.skip()
    assert tab.ask_sample("SentimentAnalyze", 99, "general", [BARE], visitor()) == gr.skip()
    assert tab.choose_cluster("gone", visitor()) == gr.skip()
    assert tab.answers.available([RIVAL, BARE], "NER") == (BARE,)
