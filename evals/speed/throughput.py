"""Tokens per second when many requests of mixed tasks wait, in batches.

`measure` compares with the peers' way: `generate` of `transformers` on PEFT's mixed-adapter batch,
with a LoRA for each task, exported from the same adapters, and one of them for each row. Requests
are sorted alike for both, and both answer in the dtype that is the fastest here; a peers' batch
lasts as long as its longest answer. `measure_mixed` times our own way with any number of adapters
in one batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.config import ConfigError, PromptFormat
from cgclora.convert.peft_export import write_peft
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.chat import encode_prompts
from cgclora.data.records import Record
from cgclora.inference.engine import answers_of, generate
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request, longest_first
from cgclora.inference.runtime import Runtime
from cgclora.models.backbone import EMBEDDED, Backbone, load_backbone
from cgclora.models.hardware import PeakMemory
from cgclora.storage import provenance
from evals.data.datasets import Dataset, first_of_each_task
from evals.methods import CGC_LORA
from evals.runs.engines import LocalEngine
from evals.runs.evaluate import predict, request_of
from evals.speed import harness

PEERS = "transformers and PEFT"
OURS = "cgclora"
EVALUATION = "evaluation"

BARS = {(OURS, PEERS): 2.0, (EVALUATION, OURS): 0.8}
"""Lowest ratio of tokens per second."""

MIXED_BARS = {"H100": 20_000.0}
"""Lowest tokens per second by a part of the device's name; for the embedded backbone."""

WIDTHS: Sequence[int] = (16, 64)
MIXED_WIDTHS: Sequence[int] = (512,)

Text = tuple[str, int]
"""An answer and its number of tokens, including the end."""

Log = Callable[[str], None]


def measure(
    folders: Sequence[str | Path],
    dataset: Dataset,
    *,
    source: str | Path = EMBEDDED,
    per_task: int = 4,
    widths: Sequence[int] = WIDTHS,
    log: Log = lambda _: None,
) -> dict[str, Any]:
    """Answer the same requests by `PEERS`, by `OURS`, and by `OURS` as an evaluation does.

    Args:
        folders: Adapters.
        dataset: Prompts; those of tasks without an adapter are skipped.
        source: The backbone.
        per_task: The number of prompts of each task, from the first.
        widths: Requests in a batch.
        log: Called with a line of progress.

    Returns:
        For each width and way `seconds`, `tokens` of the answers and `tokens per second`; `bars`;
        and the provenance.

    Raises:
        ConfigError: The package peft is missing.
        AdapterError, BackboneError: As loading says.
    """
    provenance.commit()  # cached: the commit at the start
    backbone = load_backbone(source, device="cpu")
    adapters = [Adapter.load(f, backbone, name=f"own_{i}") for i, f in enumerate(folders)]
    by_task = {task: adapter for adapter in adapters for task in adapter.config.tasks}
    records = first_of_each_task(dataset.records, by_task, per_task)
    # On a second backbone: the layers of the first one have experts by now.
    peers = _Peers(load_backbone(source, device="cpu"), adapters)
    resident = Clusters(backbone)
    for place, adapter in enumerate(adapters):
        resident.add(str(place), adapter.for_inference())
    ways: dict[str, Callable[[Sequence[Record], int], list[Text]]] = {
        PEERS: peers.answer,
        OURS: partial(_ours, backbone, resident),
        EVALUATION: partial(_evaluation, backbone, by_task, dataset),
    }
    rows: dict[str, dict[str, Any]] = {str(width): {} for width in widths}
    for width in widths:
        for name, answer in ways.items():
            answer(records[:4], width)  # warm-up
            seconds, answers = harness.timed(partial(answer, records, width))
            row = harness.throughput(seconds, sum(tokens for _, tokens in answers))
            rows[str(width)][name] = row
            log(f"{width} rows, {name}: {row['tokens per second']:.0f} tokens/s")
    return {
        "requests": len(records),
        "widths": rows,
        "bars": _bars(rows),
        **provenance.stamp(backbone.model),
    }


def _bars(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    bars = []
    for width, row in rows.items():
        for (of, against), least in BARS.items():
            rates = [row[name]["tokens per second"] for name in (of, against)]
            verdict = harness.judge(least, round(rates[0] / rates[1], 3))
            bars.append({"width": width, "of": of, "against": against, **verdict})
    return bars


def _ours(
    backbone: Backbone, experts: Clusters, records: Sequence[Record], width: int
) -> list[Text]:
    requests = [request_of(record) for record in records]
    answers = generate(backbone, requests, experts, batch_size=width)
    return [(answer.text, answer.tokens) for answer in answers]


def _evaluation(
    backbone: Backbone,
    by_task: Mapping[str, Adapter],
    dataset: Dataset,
    records: Sequence[Record],
    width: int,
) -> list[Text]:
    """`python -m evals predict`, its files included."""
    engine = LocalEngine(backbone, by_task, batch_size=width)
    chosen = replace(dataset, records=tuple(records))
    with tempfile.TemporaryDirectory() as folder:
        rows = predict(Path(folder) / "run", engine, chosen, method=CGC_LORA).predictions()
    return list(zip(rows["prediction"], rows["tokens"], strict=True))


class _Peers:
    """`generate` of `transformers`, each row with its task's LoRA by the package PEFT."""

    def __init__(self, backbone: Backbone, adapters: Sequence[Adapter]) -> None:
        try:
            from peft import PeftModel  # noqa: PLC0415 - only this benchmark needs it
        except ImportError as error:
            raise ConfigError(f"this needs the package peft ({error}): install it.") from error
        self.backbone = backbone
        self.names: dict[str, str] = {}
        self.formats: dict[str, PromptFormat] = {}
        model: Any = None
        with tempfile.TemporaryDirectory() as folder:
            for adapter in adapters:
                source = TaskLoRAs.of(adapter)
                for lora in source.loras(None):
                    name = self.names[lora.task] = f"task_{len(self.names)}"
                    self.formats[lora.task] = adapter.config.prompt_format
                    path = Path(folder) / name
                    write_peft(path, source, lora, "", torch.float32)
                    if model is None:
                        model = PeftModel.from_pretrained(backbone.model, path, adapter_name=name)
                    else:
                        model.load_adapter(path, adapter_name=name)
        self.model = model.eval()

    @torch.inference_mode()
    def answer(self, records: Sequence[Record], width: int) -> list[Text]:
        requests = [request_of(record) for record in records]
        order = longest_first(requests)
        texts: dict[int, Text] = {}
        for start in range(0, len(order), width):
            places = order[start : start + width]
            texts.update(zip(places, self._batch([requests[at] for at in places]), strict=True))
        return [texts[place] for place in range(len(records))]

    def _batch(self, requests: Sequence[Request]) -> list[Text]:
        tokenizer = self.backbone.tokenizer
        tasks = [str(request.task) for request in requests]
        prompts = encode_prompts(
            [request.prompt for request in requests],
            tokenizer,
            [self.formats[task] for task in tasks],
        )
        inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        output = self.model.generate(
            **inputs,
            adapter_names=[self.names[task] for task in tasks],
            max_new_tokens=max(request.max_new_tokens for request in requests),
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(self.backbone.ends),
        )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._cut(*pair) for pair in zip(requests, answers, strict=True)]

    def _cut(self, request: Request, ids: list[int]) -> Text:
        """A row's text up to its end; the batch goes on until its last row ends."""
        tokenizer = self.backbone.tokenizer
        text = ""
        for count in range(1, request.max_new_tokens + 1):
            text = str(tokenizer.decode(ids[:count], skip_special_tokens=True))
            stops = [text.index(stop) for stop in request.stop if stop in text]
            if stops or count == len(ids) or ids[count - 1] in self.backbone.ends:
                break
        return text[: min(stops, default=None)].rstrip("\ufffd"), count


# Many adapters ----------------------------------------------------------------------------


def measure_mixed(
    folders: Sequence[str | Path],
    dataset: Dataset,
    *,
    adapters: int,
    source: str | Path = EMBEDDED,
    per_task: int = 4,
    widths: Sequence[int] = MIXED_WIDTHS,
    log: Log = lambda _: None,
) -> dict[str, Any]:
    """Answer the same prompts with each of many adapters, all mixed in one batch.

    Args:
        folders: Adapters, loaded in turn; a folder loaded twice counts as two adapters, since each
            has its own experts on the device.
        dataset: Prompts; an adapter answers those of its tasks.
        adapters: The number of adapters.
        source: The backbone, loaded on the best device.
        per_task: The number of prompts of each task, from the first.
        widths: The largest number of rows in a batch.
        log: Called with a line of progress.

    Returns:
        For each width the facts of `_answer_twice`; `bars` if the device has one; and the
        provenance.

    Raises:
        AdapterError, BackboneError: As loading says.
    """
    provenance.commit()  # cached: the commit at the start
    backbone = load_backbone(source)
    requests: list[Request] = []
    experts: list[Adapter] = []
    for place in range(adapters):
        adapter = Adapter.load(folders[place % len(folders)], backbone, name=f"own_{place}")
        records = first_of_each_task(dataset.records, adapter.config.tasks, per_task)
        requests += map(request_of, records)
        experts += [adapter] * len(records)
    rows: dict[str, dict[str, Any]] = {}
    for width in widths:
        row = rows[str(width)] = _answer_twice(backbone, requests, experts, width)
        log(f"{width} rows, {adapters} adapters: {row['tokens per second']:.0f} tokens/s")
    device = backbone.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "adapters": adapters,
        "requests": len(requests),
        "widths": rows,
        "bars": [
            {"width": width, **harness.judge(least, row["tokens per second"], "tokens per second")}
            for width, row in rows.items()
            for kind, least in MIXED_BARS.items()
            if kind in name and str(source) == EMBEDDED
        ],
        "decoding": Runtime.of(backbone).facts(),
        **provenance.stamp(backbone.model),
    }


def _answer_twice(
    backbone: Backbone, requests: Sequence[Request], experts: Sequence[Adapter], width: int
) -> dict[str, Any]:
    """Answer all requests in batches of a width, twice.

    Returns:
        Of the second pass `seconds`, prompts and setup included, `tokens` of the answers, `prompt
        tokens` and `tokens per second`; `first`, the seconds of the first pass, in which kernels
        are compiled; and the `peak memory` of both in bytes.
    """
    memory = PeakMemory(backbone.model.device)
    work = lambda: [*answers_of(backbone, requests, experts, batch_size=width)]  # noqa: E731
    (first, _), (seconds, answers) = harness.timed(work), harness.timed(work)
    return {
        **harness.throughput(seconds, sum(one.tokens for _, one in answers)),
        "first": round(first, 2),
        "prompt tokens": sum(one.prompt_tokens for _, one in answers),
        "peak memory": memory.bytes(),
    }
