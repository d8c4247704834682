"""Answers a filled-in form as a stream of views: growing answers, then their evaluation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from cgclora.config import ConfigError
from cgclora.inference.request import Answer
from evals.scoring.metrics import Pair, get_metric, sample_scores
from evals.tasks import Language, Task, exact_match
from evals.tasks.samples import Sample
from ui.components import forms, render
from ui.components.answering_models import AnsweringModel, answering_models
from ui.components.html import quiet
from ui.components.render import Reply, label_bars
from ui.components.texts import text
from ui.engine.client import BusyError, EngineError, Wait
from ui.engine.engine import AppEngine
from ui.engine.questions import BARE

_SECONDS_BETWEEN_VIEWS = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """The form as a visitor filled it in."""

    cluster: str  # name of the adapter
    task: Task  # one of its tasks
    values: Mapping[str, str]  # a value for each of the task's fields
    # the prompt as the visitor rewrote it; None for the one made from the fields
    own_prompt: str | None
    labels_only: bool  # whether the answer must be one of the task's labels
    max_new_tokens: int
    # other models to ask: names of adapters that know the task, or `BARE`
    beside: tuple[str, ...] = (BARE,)

    @property
    def prompt(self) -> str:
        """The whole prompt."""
        return self.task.prompt(self.values) if self.own_prompt is None else self.own_prompt

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The choices that the prompt lists; a rewritten prompt may lack fields."""
        try:
            return self.task.choices(self.values)
        except ValueError:
            return None

    @property
    def sample(self) -> Sample | None:
        """The sample that the form holds unchanged, whose reference then applies."""
        return forms.sample_with(self.task, self.values) if self.own_prompt is None else None


@dataclass(frozen=True)
class View:
    """The answers and their evaluation at one moment."""

    models: tuple[AnsweringModel, ...]  # the chosen adapter first
    replies: tuple[Reply, ...]  # one of each model
    # the input's text in pieces, each with the kind that the answer gives it
    highlights: tuple[tuple[str, str | None], ...] = ()
    parsed: str = ""  # the parsed answer and its verdict, as HTML
    labels: str = ""  # the label probabilities of each model, as HTML
    problem: str = ""  # why there is no answer, and what to do; empty otherwise
    detail: str = ""  # the library's own message, in English

    def with_reply(self, place: int, reply: Reply) -> View:
        """The same view with another reply."""
        return replace(self, replies=(*self.replies[:place], reply, *self.replies[place + 1 :]))


def empty_view(models: tuple[AnsweringModel, ...], language: Language) -> View:
    """The view before a question."""
    replies = [Reply(hint=text(f"nothing_{model.role}_yet", language)) for model in models]
    return View(models, tuple(replies), parsed=quiet(text("parsed_later", language)))


def waiting_view(models: tuple[AnsweringModel, ...], language: Language, *, ready: bool) -> View:
    """The view between the click and the first token."""
    reply = Reply("live", hint=text("reading" if ready else "waiting_model", language))
    return View(models, (reply,) * len(models), parsed=quiet(text("parsed_later", language)))


def queued_view(view: View, ahead: int, language: Language) -> View:
    """The same view with the position in the queue."""
    hint = text("queued", language, ahead=ahead)
    return replace(view, replies=tuple(replace(reply, hint=hint) for reply in view.replies))


def stopped_view(view: View, language: Language) -> View:
    """The same view with unfinished answers marked as stopped."""
    for place, reply in enumerate(view.replies):
        if reply.state == "live":
            ended = replace(reply, state="done", facts=(text("stopped", language),), hint="")
            view = view.with_reply(place, ended)
    return view


def answer(
    engine: AppEngine,
    form: Form,
    language: Language,
    stopped: Callable[[], bool] = lambda: False,
    count: Callable[[], None] = lambda: None,
) -> Generator[View]:
    """Ask all models and show their answers as they grow.

    Errors end in `View.problem`; none is raised. Closing the iterator cancels the requests.

    `stopped` is called after every piece and while waiting, True cancels the requests; `count` is
    called before the model is asked and applies the rate limit.
    """
    models = answering_models(engine, form.cluster, form.beside, language)
    empty = empty_view(models, language)
    try:
        if problem := _problem(form, engine.limits.characters, language):
            yield replace(empty, problem=problem)
            return
        count()
        yield from _answer(engine, form, models, language, stopped)
    except (EngineError, ConfigError, ValueError) as error:
        yield replace(empty, problem=text(_error_key(error), language), detail=str(error))
    except Exception:  # the visitor reads a sentence, the log has the traceback
        _log.exception("no answer to a question of task %r", form.task.name)
        yield replace(empty, problem=text("internal", language))


def _error_key(error: EngineError | ValueError) -> str:
    if isinstance(error, EngineError):
        return "busy" if isinstance(error, BusyError) else "refused_by_engine"
    return "refused_task" if isinstance(error, ConfigError) else "refused_prompt"


def _answer(
    engine: AppEngine,
    form: Form,
    models: tuple[AnsweringModel, ...],
    language: Language,
    stopped: Callable[[], bool],
) -> Generator[View]:
    if not engine.status.ready:
        yield waiting_view(models, language, ready=False)
        while not engine.wait(_SECONDS_BETWEEN_VIEWS):
            if stopped():
                return
    view = waiting_view(models, language, ready=True)
    yield view
    choices = (form.task.answers(form.choices) or None) if form.labels_only else None
    requests = [
        engine.request(name, form.task.name, form.prompt, form.max_new_tokens, choices)
        for name in (form.cluster, *form.beside)
    ]
    shown = time.monotonic()
    with closing(engine.ask(requests)) as pieces:
        for piece in pieces:
            if stopped():
                return
            if isinstance(piece, Wait):
                if piece.ahead:
                    yield queued_view(view, piece.ahead, language)
                continue
            reply = view.replies[piece.index]
            reply = replace(reply, text=reply.text + piece.text)
            if piece.answer is not None:
                reply = finished_reply(piece.answer, form, language)
            view = view.with_reply(piece.index, reply)
            if piece.index == 0 and piece.answer is not None:
                view = judged_view(view, form, language)
            if piece.answer is not None or time.monotonic() - shown > _SECONDS_BETWEEN_VIEWS:
                yield view
                shown = time.monotonic()
    view = _compared(view, language)
    yield view
    if form.task.kind == "classification":
        yield from _with_labels(engine, form, view, language, stopped)


def _compared(view: View, language: Language) -> View:
    """The same view with the differences from the first answer marked."""
    first = view.replies[0].text
    for place, reply in enumerate(view.replies[1:], 1):
        facts = reply.facts
        if reply.text == first and first.strip():
            facts = (*facts, text("same_answer", language))
        view = view.with_reply(place, replace(reply, against=first, facts=facts))
    return view


def _with_labels(
    engine: AppEngine, form: Form, view: View, language: Language, stopped: Callable[[], bool]
) -> Generator[View]:
    """The same view with the label probabilities of all models."""
    labels = tuple(dict.fromkeys(form.task.answers(form.choices)))
    sample = form.sample
    right = form.task.parse(sample.reference, sample.choices).items if sample else ()
    shares: dict[AnsweringModel, list[float]] = {}
    for model in view.models:
        if stopped():
            return
        request = engine.request(model.name, form.task.name, form.prompt, form.max_new_tokens)
        shares[model] = engine.label_probabilities(request, labels)
    bars = label_bars(labels, shares, right[0][0] if right else "", language)
    yield replace(view, labels=bars)  # all at once: a growing table would shift the page


def _problem(form: Form, max_length: int, language: Language) -> str:
    """What the visitor must correct before the models are asked."""
    if form.own_prompt is None:
        field = forms.missing_field(form.task, form.values)
        if field is not None:
            return text("fill_in", language, field=forms.label(field, language))
    elif not form.own_prompt.strip():
        return text("fill_in", language, field=text("prompt_short", language))
    count = len(form.prompt)
    return text("too_long", language, count=count, most=max_length) if count > max_length else ""


def finished_reply(answer: Answer, form: Form, language: Language) -> Reply:
    """A complete answer with its speed and, for an unchanged sample, its score."""
    facts = [
        text("tokens", language, count=answer.tokens),
        text("speed", language, speed=f"{answer.tokens / max(answer.seconds, 1e-9):.1f}"),
        text("seconds", language, seconds=f"{answer.seconds:.1f}"),
    ]
    if answer.finish == "length":
        facts.append(text("cut", language))
    right = None
    sample = form.sample
    if answer.text.strip() and sample is not None:
        if form.task.kind != "generation":
            right = exact_match(form.task, answer.text, sample.reference, sample.choices)
        if form.task.kind != "classification":
            facts.append(_score(form.task, answer.text, sample))
    return Reply("done", answer.text, tuple(facts), right, hint=text("empty_answer", language))


def _score(task: Task, answer: str, sample: Sample) -> str:
    """The main metric of a single answer."""
    metric = get_metric(task.metrics[0])
    parsed = (task.parse(words, sample.choices) for words in (answer, sample.reference))
    pair = Pair(answer, sample.reference, *parsed)
    value = float(sample_scores(metric, metric.statistics([pair]))[0])
    return f"{metric.name} {value:.2f}"


def judged_view(view: View, form: Form, language: Language) -> View:
    """The same view with the first answer parsed and compared with the reference."""
    sample = form.sample
    answer = view.replies[0].text
    parsed = form.task.parse(answer, form.choices)
    original = form.own_prompt or forms.searched(form.task, form.values)
    return replace(
        view,
        highlights=tuple(forms.highlighted(original, parsed, language)),
        parsed=render.parsed_answer(
            # Scoring may map an empty answer to a label, which a visitor would take for the answer.
            parsed if answer.strip() else None,
            language,
            reference=form.task.parse(sample.reference, sample.choices) if sample else None,
            reference_text=sample.reference if sample else "",
            open_ended=form.task.kind == "generation",
        ),
    )
