"""How many tokens a second come out when many requests of mixed tasks wait: batches, side by side.

The peers' way is `generate` of `transformers` on PEFT's mixed-adapter batch: a LoRA of each task,
exported from the same adapters, and each row of a batch with its own. The requests are sorted alike
for both, and both answer them in bf16; a batch of theirs lasts as long as its longest answer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cgclora.adapter import Adapter
from cgclora.config import ConfigError, PromptFormat
from cgclora.convert.peft_export import write_peft
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.data.records import Record, encode_prompts
from cgclora.inference.engine import generate
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request, longest_first
from cgclora.models.backbone import EMBEDDED, Backbone, load_backbone
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
"""Least ratio of tokens a second."""

WIDTHS = (16, 64)

Text = tuple[str, int]
"""An answer and how many tokens it has, its end included."""

Way = Callable[[Sequence[Record], int], list[Text]]
"""Answers records in batches of a width."""


def measure(
    folders: Sequence[str | Path],
    dataset: Dataset,
    *,
    source: str | Path = EMBEDDED,
    per_task: int = 4,
    widths: Sequence[int] = WIDTHS,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Answer the same requests by `PEERS`, by `OURS`, and by `OURS` as an evaluation does.

    Args:
        folders: Adapters.
        dataset: Prompts; of tasks that no adapter knows none is taken.
        source: Their backbone.
        per_task: So many of a task, the first ones.
        widths: Requests in a batch.
        say: Told in a line what is done.

    Returns:
        For each width and way `seconds`, `tokens` of the answers and `tokens per second`; `bars`;
        and where it comes from.

    Raises:
        ConfigError: The package peft is missing.
        AdapterError, BackboneError: As loading says.
    """
    provenance.commit()  # kept from here on
    backbone = load_backbone(source, device="cpu", dtype="bfloat16")
    adapters = [Adapter.load(f, backbone, name=f"own_{i}") for i, f in enumerate(folders)]
    by_task = {task: adapter for adapter in adapters for task in adapter.config.tasks}
    records = first_of_each_task(dataset.records, by_task, per_task)
    # On a backbone of their own: the layers of this one have experts by now.
    peers = _Peers(load_backbone(source, device="cpu", dtype="bfloat16"), adapters)
    resident = Clusters(backbone)
    for place, adapter in enumerate(adapters):
        resident.add(str(place), adapter.for_inference())
    ways: dict[str, Way] = {
        PEERS: peers.answer,
        OURS: lambda records, width: _ours(backbone, resident, records, width),
        EVALUATION: lambda records, width: _evaluation(backbone, by_task, dataset, records, width),
    }
    rows: dict[str, dict[str, Any]] = {str(width): {} for width in widths}
    for width in widths:
        for name, answer in ways.items():
            answer(records[:4], width)  # kernels and caches are warm
            started = time.perf_counter()
            answers = answer(records, width)
            seconds = time.perf_counter() - started
            row = harness.throughput(seconds, sum(tokens for _, tokens in answers))
            rows[str(width)][name] = row
            say(f"{width} rows, {name}: {row['tokens per second']:.0f} tokens/s")
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
