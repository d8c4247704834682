"""The device's side of continuous batching: a batch with a fixed number of places, a static cache.

Rows take free places and leave them; all tensors keep their addresses and have few shapes, so that
a step can be compiled, and on CUDA replayed as a graph with a single launch. Steps run in chunks
without synchronisation; the tokens of a chunk are read on the host while the next one runs.
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

_SHORTEST = 128
"""Least keys that a step looks at."""

_USED = 0.8
"""Share of the free memory that is taken."""

_ALIGNED = 16
"""Prompts are padded to a multiple of it: kernels for attention want masks of such widths."""

_WIDE = 8
"""Tensors in fp32 as wide as the widest layers that a token of a prefill needs at once, at most."""


def bucket(tokens: int) -> int:
    """The next length that a step has: 128, 192, 256, 384, 512 and so on."""
    size = _SHORTEST
    while size < tokens:
        size = size * 3 // 2 if (size & (size - 1)) == 0 else size * 4 // 3
    return size


def rows_that_fit(
    decoder: FastDecoder, head: OutputHead, capacity: int, prefill_tokens: int
) -> int | None:
    """How many places a batch may have, by the memory that is free now; None if that is unknown.

    A place needs its keys and values and a row of logits; what is left over is for a prefill.

    Args:
        decoder: Who decodes.
        head: Its output head.
        capacity: Most tokens of a row.
        prefill_tokens: Most tokens of a prefill.
    """
    free = free_memory(decoder.device)
    if free is None:
        return None
    if decoder.device.type == "cuda":  # what torch keeps for later is free, too
        free += torch.cuda.memory_reserved(decoder.device)
        free -= torch.cuda.memory_allocated(decoder.device)
    item = decoder.dtype.itemsize
    first = decoder.layers[0]
    keys_values: int = 2 * len(decoder.layers) * first.kv_heads * first.head_size * capacity * item
    logits = len(head.weight) * item
    widest = max(sum(group.sizes) for layer in decoder.layers for group in layer.groups)
    prefill = prefill_tokens * _WIDE * widest * 4
    return max(1, int(_USED * free - prefill) // (keys_values + logits))


class StaticBatch:
    """See the module's text.

    Args:
        decoder: Who decodes; of this batch alone.
        head: The model's output head.
        bank: The experts of all rows that will come.
        places: How many there are.
        capacity: Most tokens of a row, those included that it reads after its end.
        chunk: Steps in a chunk.
        backend: Of `torch.compile` for the layers; None compiles none.

    Attributes:
        places: As given.
        chunk: As given.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: FastDecoder,
        head: OutputHead,
        bank: ExpertSlots,
        places: int,
        capacity: int,
        *,
        chunk: int,
        backend: str | None,
    ) -> None:
        self.places = places
        self.chunk = chunk
        self._capacity = capacity
        self._decoder, self._head, self._bank = decoder, head, bank
        self._device = decoder.device
        self._layer = Compiled(_call, backend)
        # One tensor each: where several inputs of a function are parts of one, compilers copy it.
        self._cache = [
            (
                torch.zeros(shape, device=self._device, dtype=decoder.dtype),
                torch.zeros(shape, device=self._device, dtype=decoder.dtype),
            )
            for layer in decoder.layers
            for shape in [(places, layer.kv_heads, capacity, layer.head_size)]
        ]
        for kind in decoder.windows:  # now: graphs keep the addresses of these tables
            decoder.turns(kind, capacity)
        self._tokens, self._lengths, self._slots = (
            torch.zeros(places, dtype=torch.long, device=self._device) for _ in range(3)
        )
        self._said = torch.zeros(places, chunk, dtype=torch.long, device=self._device)
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._replays = self._device.type == "cuda"
        if self._replays:
            self._pool = torch.cuda.graph_pool_handle()
            self._side = torch.cuda.Stream(self._device)

    # Rows come and go ---------------------------------------------------------------------

    @torch.inference_mode()
    def admit(
        self, places: Sequence[int], prompts: Sequence[Sequence[int]], slots: Sequence[int]
    ) -> None:
        """Let rows take places: read their prompts and choose their first tokens.

        Args:
            places: Free ones.
            prompts: Token ids of each.
            slots: Of the bank.
        """
        decoder = self._decoder
        padded = pad_sequence([torch.tensor(prompt) for prompt in prompts], True)
        ids = self._put(F.pad(padded, (0, -padded.shape[1] % _ALIGNED)))
        counts = self._put(torch.tensor([len(prompt) for prompt in prompts]))
        index, own = self._put(torch.tensor(places)), self._put(torch.tensor(slots))
        rows, count = ids.shape
        where = decoder.places_from(0, count, decoder.dtype)
        experts = self._bank.layers(own, shared=False)
        x = decoder.embed(ids)
        for layer, cache, added in zip(decoder.layers, self._cache, experts, strict=True):
            shape = (rows, layer.kv_heads, count, layer.head_size)
            new = cache[0].new_empty(shape), cache[1].new_empty(shape)
            x = self._layer(layer, x, new, where[layer.kind], added)
            for table, written in zip(cache, new, strict=True):
                # Zero after the prompts: what no row may see still takes part with weight 0.
                table.index_fill_(0, index, 0)
                table[:, :, :count].index_copy_(0, index, written)
        last = x[torch.arange(rows, device=self._device), counts - 1]
        self._tokens.index_copy_(0, index, self._head.choose(decoder.norm(last)))
        self._lengths.index_copy_(0, index, counts)
        self._slots.index_copy_(0, index, own)

    @torch.inference_mode()
    def move(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Move rows to other places, which must be free."""
        source, target = self._put(torch.tensor(old)), self._put(torch.tensor(new))
        state = [self._tokens, self._lengths, self._slots]
        for table in [*state, *(table for cache in self._cache for table in cache)]:
            table.index_copy_(0, target, table.index_select(0, source))

    def _put(self, values: Tensor) -> Tensor:
        """Values on the device, copied without synchronisation."""
        if self._device.type != "cuda":
            return values.to(self._device)
        return values.pin_memory().to(self._device, non_blocking=True)

    # Steps --------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self, width: int, longest: int) -> Callable[[], list[list[int]]]:
        """Begin a chunk of steps of the first places.

        Args:
            width: How many.
            longest: Tokens that the longest row whose answer counts holds before.

        Returns:
            Waits for the chunk, and gives for each place the tokens that it read: the one that was
            chosen before, and all that were chosen since but the last.
        """
        end = min(bucket(longest + self.chunk + 1), self._capacity)
        for _ in range(self.chunk):
            self._advance(width, end)
        return self._read(width)

    def _read(self, width: int) -> Callable[[], list[list[int]]]:
        if self._device.type != "cuda":
            said = self._said[:width].cpu().clone()
            return said.tolist
        host = torch.empty(width, self.chunk, dtype=torch.long, pin_memory=True)
        host.copy_(self._said[:width], non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def wait() -> list[list[int]]:
            copied.synchronize()
            said: list[list[int]] = host.tolist()
            return said

        return wait

    def _advance(self, width: int, end: int) -> None:
        """One step, as a graph where there are graphs."""
        if self._replays and (width, end) not in self._graphs:
            try:
                self._graphs[width, end] = self._captured(width, end)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # some operation cannot be captured
                warn(f"no CUDA graph could be made, so answers come without: {error}")
                self._replays = False
        if self._replays:
            self._graphs[width, end].replay()
        else:
            self._step(width, end)

    def _captured(self, width: int, end: int) -> torch.cuda.CUDAGraph:
        """The graph of a step; the state stays as it is."""
        state = [self._tokens, self._lengths, self._said]
        before = [table.clone() for table in state]
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            self._step(width, end)  # what is compiled or chosen at first use may not be captured
        current.wait_stream(self._side)
        for table, old in zip(state, before, strict=True):
            table.copy_(old)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._step(width, end)
        return graph

    def _step(self, width: int, end: int) -> None:
        """Read the token of each of the first places and choose its next one."""
        decoder = self._decoder
        tokens, lengths = self._tokens[:width], self._lengths[:width]
        where = decoder.places_at(lengths, 1, end, decoder.dtype)
        compiled, slots = self._layer.is_compiled, self._bank.slots
        shared = sharing_pays(slots, width, self._device.type, compiled=compiled)
        experts = self._bank.layers(self._slots[:width], shared=shared)
        x = decoder.embed(tokens[:, None])
        for layer, cache, added in zip(decoder.layers, self._cache, experts, strict=True):
            keys, values = cache
            own = keys[:width], values[:width]
            x = self._layer(layer, x, own, where[layer.kind], added)
        said = self._said[:width]
        said.copy_(torch.cat([said[:, 1:], tokens[:, None]], dim=1))
        tokens.copy_(self._head.choose(decoder.norm(x[:, 0])))
        # A row that has ended may reach the end of its room: it stays there until it is replaced.
        lengths.copy_((lengths + 1).clamp(max=end - 1))


def _call(layer: Callable[..., Tensor], *arguments: object) -> Tensor:
    return layer(*arguments)
