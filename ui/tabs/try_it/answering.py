"""From a filled-in form to a stream of views: the answer as it grows, then what it means."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cgclora.config import ConfigError
from evals.scoring.metrics import Pair, get_metric, sample_scores
from evals.tasks import Language, Task, exact_match
from evals.tasks.samples import Sample
from ui.components import forms, render
from ui.components.answering_models import Speaker, speakers
from ui.components.label_bars import label_bars
from ui.components.render import Reply
from ui.components.texts import text
from ui.engine.client import BusyError, EngineError, Wait
from ui.engine.engine import Engine
from ui.engine.questions import BARE, Question

if TYPE_CHECKING:
    from cgclora.inference.request import Answer

_SECONDS_BETWEEN_VIEWS = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """What a visitor asks.

    Attributes:
        cluster: Name of the adapter.
        task: One of its tasks.
        values: A value for each of the task's fields.
        own_prompt: The prompt as the visitor rewrote it; None takes the one that the fields make.
        labels_only: Whether the answer must be one of the task's labels.
        max_new_tokens: Most tokens of the answer.
        beside: Who else is asked, see `Question.beside`.
    """

    cluster: str
    task: Task
    values: Mapping[str, str]
    own_prompt: str | None
    labels_only: bool
    max_new_tokens: int
    beside: tuple[str, ...] = (BARE,)


@dataclass(frozen=True)
class View:
    """What the page shows at one moment.

    Attributes:
        speakers: Who is asked: the chosen adapter first.
        replies: Of each of them.
        highlights: The input's text in pieces, each with what the answer calls it.
        parsed: The parsed answer and its verdict, as HTML.
        labels: How likely each of them finds each label, as HTML.
        problem: Why there is no answer, and what to do; empty otherwise.
        detail: The library's own words about it, in English.
    """

    speakers: tuple[Speaker, ...]
    replies: tuple[Reply, ...]
    highlights: tuple[tuple[str, str | None], ...] = ()
    parsed: str = ""
    labels: str = ""
    problem: str = ""
    detail: str = ""


def empty_view(asked: tuple[Speaker, ...], language: Language) -> View:
    """Before the first question."""
    replies = [Reply(hint=text(f"nothing_{speaker.side}_yet", language)) for speaker in asked]
    return View(asked, tuple(replies), parsed=_later(language))


def waiting_view(asked: tuple[Speaker, ...], language: Language, *, ready: bool) -> View:
    """Between the click and the first token."""
    reply = Reply("live", hint=text("reading" if ready else "waiting_model", language))
    return View(asked, (reply,) * len(asked), parsed=_later(language))


def stopped_view(view: View, language: Language) -> View:
    """What has been said so far, and that it ends there."""
    for index, reply in enumerate(view.replies):
        if reply.state == "live":
            ended = replace(reply, state="done", facts=(text("stopped", language),), hint="")
            view = _with_reply(view, index, ended)
    return view


def _later(language: Language) -> str:
    return f'<p class="quiet">{text("parsed_later", language)}</p>'


def answer(
    engine: Engine,
    form: Form,
    language: Language,
    stopped: Callable[[], bool] = lambda: False,
    count: Callable[[], None] = lambda: None,
) -> Generator[View]:
    """Ask the experts and those beside them, and show all answers as they grow.

    Closing the iterator stops the work; so does `stopped`, which is asked after every piece and
    while there is none. `count` is called before anything is asked, and may refuse as the engine
    does. What goes wrong is said in `View.problem`, never raised.
    """
    asked = speakers(engine, form.cluster, form.beside, language)
    empty = empty_view(asked, language)
    try:
        if not (problem := _problem(form, engine.limits.characters, language)):
            count()
            yield from _answer(engine, form, asked, language, stopped)
        else:
            yield replace(empty, problem=problem)
    except (EngineError, ConfigError, ValueError) as error:
        problem = text(_refusal(error), language)
        yield replace(empty, problem=problem, detail=str(error))
    except Exception:  # a visitor gets a sentence, the log the traceback
        _log.exception("no answer to a question of task %r", form.task.name)
        yield replace(empty, problem=text("internal", language))


def _refusal(error: EngineError | ValueError) -> str:
    """The key of what a visitor reads about an error."""
    if isinstance(error, EngineError):
        return "busy" if isinstance(error, BusyError) else "refused_by_engine"
    return "refused_task" if isinstance(error, ConfigError) else "refused_prompt"


def _answer(
    engine: Engine,
    form: Form,
    asked: tuple[Speaker, ...],
    language: Language,
    stopped: Callable[[], bool],
) -> Generator[View]:
    view = waiting_view(asked, language, ready=engine.status.ready)
    yield view
    if not engine.status.ready:
        while not engine.wait(_SECONDS_BETWEEN_VIEWS):
            if stopped():
                return
        view = waiting_view(asked, language, ready=True)
        yield view
    shown = time.monotonic()
    with closing(engine.ask(_question(form))) as pieces:
        for piece in pieces:
            if stopped():
                return
            if isinstance(piece, Wait):
                if piece.ahead:
                    yield _queued(view, piece.ahead, language)
                continue
            reply = view.replies[piece.index]
            reply = replace(reply, text=reply.text + piece.text)
            if piece.answer is not None:
                reply = _finished(reply, piece.answer, form, language)
            view = _with_reply(view, piece.index, reply)
            if piece.index == 0 and piece.answer is not None:
                view = _judged(view, form, language)
            if piece.answer is not None or time.monotonic() - shown > _SECONDS_BETWEEN_VIEWS:
                yield view
                shown = time.monotonic()
    view = _compared(view, language)
    yield view
    if form.task.kind == "classification":
        yield from _weighed(engine, form, view, language, stopped)


def _queued(view: View, ahead: int, language: Language) -> View:
    """The same view with the number of questions that are answered first."""
    hint = text("queued", language, ahead=ahead)
    return replace(view, replies=tuple(replace(reply, hint=hint) for reply in view.replies))


def _compared(view: View, language: Language) -> View:
    """The same view with what the others say otherwise marked."""
    first = view.replies[0].text
    for place, reply in enumerate(view.replies[1:], 1):
        facts = reply.facts
        if reply.text == first and first.strip():
            facts = (*facts, text("same_answer", language))
        view = _with_reply(view, place, replace(reply, against=first, facts=facts))
    return view


def _weighed(
    engine: Engine, form: Form, view: View, language: Language, stopped: Callable[[], bool]
) -> Generator[View]:
    """The same view with the probability of each label, according to all who were asked."""
    labels = tuple(dict.fromkeys(form.task.answers(_choices(form))))
    sample = _sample(form)
    right = form.task.parse(sample.reference, sample.choices).items if sample else ()
    sides: dict[Speaker, list[float]] = {}
    for speaker in view.speakers:
        if stopped():
            return
        question = replace(_question(form), cluster=speaker.name)
        sides[speaker] = engine.label_probabilities(question, labels)
    bars = label_bars(labels, sides, right[0][0] if right else "", language)
    yield replace(view, labels=bars)  # all at once: a table that grows would push the page about


def _problem(form: Form, most: int, language: Language) -> str:
    """What a visitor can set right before anything is asked."""
    if form.own_prompt is None:
        field = forms.missing_field(form.task, form.values)
        if field is not None:
            return text("fill_in", language, field=forms.label(field, language))
    elif not form.own_prompt.strip():
        return text("fill_in", language, field=text("prompt_short", language))
    count = len(_prompt(form))
    return text("too_long", language, count=count, most=most) if count > most else ""


def _prompt(form: Form) -> str:
    return form.task.prompt(form.values) if form.own_prompt is None else form.own_prompt


def _choices(form: Form) -> tuple[str, ...] | None:
    """What the prompt offers; a prompt of the visitor's own may lack fields."""
    try:
        return form.task.choices(form.values)
    except ValueError:
        return None


def _question(form: Form) -> Question:
    choices = form.task.answers(_choices(form)) if form.labels_only else ()
    return Question(
        form.cluster,
        form.task.name,
        _prompt(form),
        form.max_new_tokens,
        choices or None,
        beside=form.beside,
    )


def _with_reply(view: View, index: int, reply: Reply) -> View:
    replies = [*view.replies]
    replies[index] = reply
    return replace(view, replies=tuple(replies))


def _finished(reply: Reply, answer: Answer, form: Form, language: Language) -> Reply:
    facts = [
        text("tokens", language, count=answer.tokens),
        text("speed", language, speed=f"{answer.tokens / max(answer.seconds, 1e-9):.1f}"),
        text("seconds", language, seconds=f"{answer.seconds:.1f}"),
    ]
    if answer.finish == "length":
        facts.append(text("cut", language))
    right = None
    sample = _sample(form)
    if answer.text.strip() and sample is not None:
        if form.task.kind != "generation":
            right = exact_match(form.task, answer.text, sample.reference, sample.choices)
        if form.task.kind != "classification":
            facts.append(_score(form.task, answer.text, sample))
    return Reply("done", answer.text, tuple(facts), right, hint=text("empty_answer", language))


def _score(task: Task, said: str, sample: Sample) -> str:
    """The main score of one answer; that of many is no mean of such scores for every metric."""
    metric = get_metric(task.metrics[0])
    read = (task.parse(words, sample.choices) for words in (said, sample.reference))
    pair = Pair(said, sample.reference, *read)
    value = float(sample_scores(metric, metric.statistics([pair]))[0])
    return f"{metric.name} {value:.2f}"


def _judged(view: View, form: Form, language: Language) -> View:
    """The same view with the experts' answer read and compared."""
    sample = _sample(form)
    said = view.replies[0].text
    parsed = form.task.parse(said, _choices(form))
    original = form.own_prompt or forms.searched(form.task, form.values)
    return replace(
        view,
        highlights=tuple(forms.highlighted(original, parsed, language)),
        parsed=render.parsed_answer(
            # Scoring may read a label into silence; a visitor would take it for said.
            parsed if said.strip() else None,
            language,
            reference=form.task.parse(sample.reference, sample.choices) if sample else None,
            reference_text=sample.reference if sample else "",
            open_ended=form.task.kind == "generation",
        ),
    )


def _sample(form: Form) -> Sample | None:
    """The sample that is being asked, if it is one as it stands."""
    return forms.sample_with(form.task, form.values) if form.own_prompt is None else None
