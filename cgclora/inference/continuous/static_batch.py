"""A batch with a fixed number of rows and a static key-value cache, for continuous batching.

Requests take free rows and leave them. All tensors keep their addresses and have few shapes, so a
step can be compiled, and on CUDA replayed as a graph with a single launch. Steps run in chunks
without synchronisation; the host reads the tokens of a chunk while the next one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cgclora.inference.continuous.expert_slots import ExpertSlots, sharing_pays
from cgclora.inference.fast_decoder import FastDecoder
from cgclora.models.hardware import Compiled, free_memory, warn
from cgclora.models.lm_head import OutputHead

_MIN_KEYS = 128  # of a step
_MEMORY_SHARE = 0.8  # of the free memory
_PROMPT_MULTIPLE = 16  # of padded prompts: attention kernels need masks of such widths
_WIDE_TENSORS = 8  # that a prefill holds at once, at most: fp32, as wide as the widest layers


def bucket(tokens: int) -> int:
    """The next number of keys that steps are made for: 128, 192, 256, 384, 512 and so on."""
    size = _MIN_KEYS
    while size < tokens:
        size = size * 3 // 2 if (size & (size - 1)) == 0 else size * 4 // 3
    return size


def rows_that_fit(
    decoder: FastDecoder, head: OutputHead, capacity: int, prefill_tokens: int
) -> int | None:
    """Number of rows that fit into the free memory; None if that is unknown.

    Memory is needed for keys, values and logits of each row, and for one prefill.

    Args:
        decoder: The decoder.
        head: The model's output head.
        capacity: Maximum tokens of a row.
        prefill_tokens: Maximum tokens of a prefill.
    """
    free = free_memory(decoder.device)
    if free is None:
        return None
    if decoder.device.type == "cuda":  # memory that torch has reserved is free, too
        free += torch.cuda.memory_reserved(decoder.device)
        free -= torch.cuda.memory_allocated(decoder.device)
    item = decoder.dtype.itemsize
    first = decoder.layers[0]
    keys_values: int = 2 * len(decoder.layers) * first.kv_heads * first.head_size * capacity * item
    logits = len(head.weight) * item
    widest = max(sum(group.sizes) for layer in decoder.layers for group in layer.groups)
    prefill = prefill_tokens * _WIDE_TENSORS * widest * 4
    return max(1, int(_MEMORY_SHARE * free - prefill) // (keys_values + logits))


class StaticBatch:
    """See the module's docstring.

    Args:
        decoder: Used by this batch alone.
        head: The model's output head.
        experts: Of all requests to come.
        max_rows: Number of rows.
        capacity: Maximum tokens of a row, including those decoded after its end.
        chunk: Steps per chunk.
        backend: Of `torch.compile` for the layers; None compiles none.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: FastDecoder,
        head: OutputHead,
        experts: ExpertSlots,
        max_rows: int,
        capacity: int,
        *,
        chunk: int,
        backend: str | None,
    ) -> None:
        self.max_rows = max_rows
        self.chunk = chunk
        self._capacity = capacity
        self._decoder, self._head, self._experts = decoder, head, experts
        self._device = decoder.device
        self._layer = Compiled(_call_layer, backend)
        # Separate tensors: compilers copy a tensor if several inputs are views of it.
        self._cache = [
            (
                torch.zeros(shape, device=self._device, dtype=decoder.dtype),
                torch.zeros(shape, device=self._device, dtype=decoder.dtype),
            )
            for layer in decoder.layers
            for shape in [(max_rows, layer.kv_heads, capacity, layer.head_size)]
        ]
        for attention_type in decoder.windows:  # in advance: graphs keep the tables' addresses
            decoder.rotary_tables(attention_type, capacity)
        self._tokens, self._lengths, self._slots = (
            torch.zeros(max_rows, dtype=torch.long, device=self._device) for _ in range(3)
        )
        self._chosen = torch.zeros(max_rows, chunk, dtype=torch.long, device=self._device)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._use_graphs = self._device.type == "cuda"
        if self._use_graphs:
            self._pool = torch.cuda.graph_pool_handle()
            self._capture_stream = torch.cuda.Stream(self._device)

    @torch.inference_mode()
    def admit(
        self, rows: Sequence[int], prompts: Sequence[Sequence[int]], slots: Sequence[int]
    ) -> None:
        """Prefill requests into free rows and choose their first tokens.

        Args:
            rows: Indices of free rows.
            prompts: Token ids of each.
            slots: Expert slot of each.
        """
        decoder = self._decoder
        padded = pad_sequence([torch.tensor(prompt) for prompt in prompts], True)
        ids = self._put(F.pad(padded, (0, -padded.shape[1] % _PROMPT_MULTIPLE)))
        counts = self._put(torch.tensor([len(prompt) for prompt in prompts]))
        index, row_slots = self._put(torch.tensor(rows)), self._put(torch.tensor(slots))
        number, count = ids.shape
        positions = decoder.positions_from(0, count, decoder.dtype)
        experts = self._experts.layers(row_slots, shared=False)
        x = decoder.embed(ids)
        for layer, cache, added in zip(decoder.layers, self._cache, experts, strict=True):
            shape = (number, layer.kv_heads, count, layer.head_size)
            new = cache[0].new_empty(shape), cache[1].new_empty(shape)
            x = self._layer(layer, x, new, positions[layer.attention_type], added)
            for table, written in zip(cache, new, strict=True):
                # Zeros after the prompts: masked keys and values must be finite.
                table.index_fill_(0, index, 0)
                table[:, :, :count].index_copy_(0, index, written)
        last = x[torch.arange(number, device=self._device), counts - 1]
        self._tokens.index_copy_(0, index, self._head.choose(decoder.norm(last)))
        self._lengths.index_copy_(0, index, counts)
        self._slots.index_copy_(0, index, row_slots)

    @torch.inference_mode()
    def move(self, rows: Sequence[int], targets: Sequence[int]) -> None:
        """Move rows to free ones."""
        source, target = self._put(torch.tensor(rows)), self._put(torch.tensor(targets))
        state = [self._tokens, self._lengths, self._slots]
        for table in [*state, *(table for cache in self._cache for table in cache)]:
            table.index_copy_(0, target, table.index_select(0, source))

    def _put(self, values: Tensor) -> Tensor:
        """Values on the device, copied without synchronisation."""
        if self._device.type != "cuda":
            return values.to(self._device)
        return values.pin_memory().to(self._device, non_blocking=True)

    @torch.inference_mode()
    def run(self, width: int, longest: int) -> Callable[[], list[list[int]]]:
        """Start a chunk of steps.

        Args:
            width: Number of rows, the first ones.
            longest: Cached tokens of the longest row in use.

        Returns:
            A function that waits for the chunk and returns the tokens that each row has read: the
            one chosen before the chunk and all chosen in it but the last.
        """
        end = min(bucket(longest + self.chunk + 1), self._capacity)
        for _ in range(self.chunk):
            self._advance(width, end)
        if self._device.type != "cuda":
            return self._chosen[:width].cpu().clone().tolist
        host = torch.empty(width, self.chunk, dtype=torch.long, pin_memory=True)
        host.copy_(self._chosen[:width], non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def wait() -> list[list[int]]:
            copied.synchronize()
            tokens: list[list[int]] = host.tolist()
            return tokens

        return wait

    def _advance(self, width: int, end: int) -> None:
        """Run one step, as a CUDA graph if possible."""
        if self._use_graphs and (width, end) not in self._graphs:
            try:
                self._graphs[width, end] = self._capture(width, end)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # an operation cannot be captured
                warn(f"no CUDA graph could be captured, so decoding runs without graphs: {error}")
                self._use_graphs = False
        if self._use_graphs:
            self._graphs[width, end].replay()
        else:
            self._step(width, end)

    def _capture(self, width: int, end: int) -> torch.cuda.CUDAGraph:
        """The graph of a step; the state is restored afterwards."""
        state = [self._tokens, self._lengths, self._chosen]
        before = [table.clone() for table in state]
        current = torch.cuda.current_stream(self._device)
        self._capture_stream.wait_stream(current)
        with torch.cuda.stream(self._capture_stream):
            self._step(width, end)  # what first use compiles or selects cannot be captured
        current.wait_stream(self._capture_stream)
        for table, old in zip(state, before, strict=True):
            table.copy_(old)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(width, end)
        return graph

    def _step(self, width: int, end: int) -> None:
        """Read the current token of the first rows and choose the next one."""
        decoder = self._decoder
        tokens, lengths = self._tokens[:width], self._lengths[:width]
        positions = decoder.positions_after(lengths, 1, end, decoder.dtype)
        compiled, slots = self._layer.is_compiled, self._experts.slots
        shared = sharing_pays(slots, width, self._device.type, compiled=compiled)
        experts = self._experts.layers(self._slots[:width], shared=shared)
        x = decoder.embed(tokens[:, None])
        for layer, cache, added in zip(decoder.layers, self._cache, experts, strict=True):
            keys, values = cache
            key_values = keys[:width], values[:width]
            x = self._layer(layer, x, key_values, positions[layer.attention_type], added)
        chosen = self._chosen[:width]
        chosen.copy_(torch.cat([chosen[:, 1:], tokens[:, None]], dim=1))
        tokens.copy_(self._head.choose(decoder.norm(x[:, 0])))
        # An ended row may reach its capacity: it stays there until another replaces it.
        lengths.copy_((lengths + 1).clamp(max=end - 1))


def _call_layer(layer: Callable[..., Tensor], *arguments: object) -> Tensor:
    return layer(*arguments)
