"""How many tokens a second come out when many adapters answer in one batch, as evaluations do it.

Adapters that are given fewer than wanted are loaded several times: for the device they are as
different as any others, each with experts of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.inference.engine import answers_of
from cgclora.inference.request import Answer, Request
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import EMBEDDED, Backbone, load_backbone
from cgclora.models.hardware import PeakMemory
from cgclora.storage import provenance
from evals.data.datasets import Dataset, first_of_each_task
from evals.runs.evaluate import request_of
from evals.speed.harness import judge, seconds_of, throughput

WIDTHS = (512,)

BARS = {"H100": 20_000.0}
"""Least tokens a second by what the device's name holds; for the embedded backbone."""


def measure(
    folders: Sequence[str | Path],
    dataset: Dataset,
    *,
    adapters: int,
    source: str | Path = EMBEDDED,
    per_task: int = 4,
    widths: Sequence[int] = WIDTHS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Let each of so many adapters answer the same prompts, all of them mixed.

    Args:
        folders: Adapters, taken in turn.
        dataset: Prompts; of tasks that an adapter does not know it answers none.
        adapters: How many answer.
        source: Their backbone, loaded on the best device that there is.
        per_task: Prompts of each task, the first ones.
        widths: Most rows of a batch.
        say: Told in a line what is done.

    Returns:
        For each width the facts of `_answer_twice`; `bars` where there is one for the device; and
        where it comes from.

    Raises:
        AdapterError, BackboneError: As loading says.
    """
    provenance.commit()  # kept from here on
    backbone = load_backbone(source)
    device = backbone.model.device
    loaded = [
        Adapter.load(folders[place % len(folders)], backbone, name=f"own_{place}")
        for place in range(adapters)
    ]
    asked = [
        (request_of(record), adapter)
        for adapter in loaded
        for record in first_of_each_task(dataset.records, adapter.config.tasks, per_task)
    ]
    requests, experts = [request for request, _ in asked], [adapter for _, adapter in asked]
    rows: dict[str, dict[str, Any]] = {}
    for width in widths:
        row = rows[str(width)] = _answer_twice(backbone, requests, experts, width)
        say(f"{width} rows, {adapters} adapters: {row['tokens per second']:.0f} tokens/s")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "adapters": adapters,
        "requests": len(requests),
        "widths": rows,
        "bars": [
            {"width": width, **judge(least, row["tokens per second"], "tokens per second")}
            for width, row in rows.items()
            for kind, least in BARS.items()
            if kind in name and str(source) == EMBEDDED
        ],
        "decoding": Runtime.of(backbone).facts(),
        **provenance.stamp(backbone.model),
    }


def _answer_twice(
    backbone: Backbone, requests: Sequence[Request], experts: Sequence[Adapter], width: int
) -> dict[str, Any]:
    """Answer all requests in batches of a width, and once more.

    Returns:
        Of the second pass `seconds`, prompts and setup included, `tokens` of the answers, `prompt
        tokens` and `tokens per second`; `first`, the seconds of the first pass, in which kernels
        are compiled; and the `peak memory` of both in bytes.
    """
    memory, answers = PeakMemory(backbone.model.device), list[Answer]()

    def answer() -> None:
        found = answers_of(backbone, requests, experts, batch_size=width)
        answers[:] = [one for _, one in found]

    first, seconds = seconds_of(answer), seconds_of(answer)
    return {
        **throughput(seconds, sum(one.tokens for one in answers)),
        "first": round(first, 2),
        "prompt tokens": sum(one.prompt_tokens for one in answers),
        "peak memory": memory.bytes(),
    }
