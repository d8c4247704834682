"""The experts of adapters that are trained together, as tables that one product a layer reads.

Adapters of one shape (the same layers, one rank, one dropout) lie one above the other: a bank. Its
row m holds all experts of adapter m, layer after layer, and a layer reads A [M, R, in] and
B [M, R, out] as views of it. So a pass multiplies the rows of all adapters by batched products,
without a loop over adapters, and what belongs to one adapter alone (optimizer, clipping, sums over
processes) sees a single vector:

    master    [M, P]   what is trained, in the adapters' dtype; their parameters are views of it
    working   [M, P]   the same in the backbone's dtype, which the products read
    gradient  [M, P]   summed up over the passes of a step, in the master's dtype

The parameters of the backbone's expert layers stay the same objects throughout.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.layer import ExpertLinear, LayerExperts
from cgclora.models.dropout import RowDropout

_ROW_SEED, _LAYER_SEED = 0x9E3779B1, 0x85EBCA6B


class ExpertBank:
    """The experts of adapters of one shape, whose parameters become views of the bank.

    `ranks` are the rows of A and the columns of B; what smaller adapters lack is zero and stays so.
    """

    def __init__(self, adapters: Sequence[Adapter], ranks: tuple[int, int]) -> None:
        self.adapters = adapters
        self.layers = list(adapters[0].layers.values())
        self.dropout = adapters[0].config.dropout
        self.shared_A = adapters[0].config.shared_A
        # Of A and B of each layer in turn, as they lie in a row.
        self.features = [
            features
            for layer in self.layers
            for features in (layer.base_layer.in_features, layer.base_layer.out_features)
        ]
        self.ranks = ranks
        self.sizes = [
            rank * features for rank, features in zip(cycle(ranks), self.features, strict=False)
        ]
        like = next(parameter for _, parameter in adapters[0].expert_parameters())
        self.master = like.data.new_zeros(len(adapters), sum(self.sizes))
        for row, adapter in enumerate(adapters):
            views = self.views(row, self.master[row])
            for name, parameter in adapter.expert_parameters():
                views[name].copy_(parameter.data)
                parameter.data = views[name]
        self.gradient = torch.zeros_like(self.master)
        self.working = self.master.to(adapters[0].model.dtype)  # the same one, if the dtype is
        self._anchor = torch.zeros((), device=like.device, requires_grad=True)

    def views(self, row: int, vector: Tensor) -> dict[str, Tensor]:
        """A vector laid out as an adapter's row, [P], by the names of its expert parameters."""
        adapter = self.adapters[row]
        tables, config = self.tables(vector[None]), adapter.config
        views: dict[str, Tensor] = {}
        for path, A, B in zip(adapter.layers, tables[::2], tables[1::2], strict=True):
            views[f"{path}.expert_A"] = A[0, : config.rank_of_A]
            views[f"{path}.expert_B"] = B[0, : config.total_rank].t()
        return views

    def refresh(self, row: int) -> None:
        """Let the products read what an adapter has learned, and forget its gradient."""
        if self.working is not self.master:
            self.working[row].copy_(self.master[row])
        self.gradient[row].zero_()

    def parts(
        self, adapters: slice, first_row: int, tasks: Sequence[Tensor], seeds: Tensor
    ) -> Iterator[tuple[ExpertLinear, LayerExperts]]:
        """What consecutive adapters do for consecutive rows of a pass, from `first_row` on.

        `tasks` has each adapter's task ids [rows], equally many; `seeds` of dropout, int64 [rows],
        and of the gates' noise are used while the layers are training.
        """
        count = len(tasks[0])
        training = self.layers[0].training
        for _, own in groupby(
            range(adapters.start, adapters.stop),
            # One by one where rows go through their own experts: these are picked for each.
            lambda place: place if self.adapters[place].selects_experts(count) else -1,
        ):
            places = [*own]
            run = slice(places[0], places[-1] + 1)
            start = (run.start - adapters.start) * count
            rows = slice(start, start + len(places) * count)
            of_rows = seeds[rows].int().split(count) if training else [None] * len(places)
            selected = [
                self.adapters[place].weights_of_rows(tasks[place - adapters.start], own_seeds)
                for place, own_seeds in zip(places, of_rows, strict=True)
            ]
            apply: Callable[..., tuple[Tensor, ...]] = _Tables.apply
            flat = apply(self._anchor, self, run)
            tables = [*zip(flat[::2], flat[1::2], strict=True)]
            ranks = selected[0][1]
            if ranks is not None:
                tables = [
                    (A if self.shared_A else A.index_select(1, ranks), B.index_select(1, ranks))
                    for A, B in tables
                ]
            height, width = (table.shape[1] for table in tables[0])
            shape = (height if self.shared_A else 1, width)
            padded = [
                F.pad(one, (0, shape[1] - one.shape[-1], 0, shape[0] - one.shape[-2]))
                for one, _ in selected
            ]
            weights = torch.cat(padded, dim=1).to(self.working.dtype)
            dropouts: Sequence[RowDropout | None] = [None] * len(self.layers)
            if self.dropout and training:
                of_layers = seeds_of_layers(seeds[rows], len(self.layers))
                dropouts = [RowDropout(self.dropout, one) for one in of_layers.unbind(0)]
            at = slice(first_row + rows.start, first_row + rows.stop)
            if len(places) == 1:
                tables = [(A.squeeze(0), B.squeeze(0)) for A, B in tables]
            for layer, (A, B), one, dropout in zip(
                self.layers, tables, weights.unbind(0), dropouts, strict=True
            ):
                yield layer, LayerExperts(A, B, one, rows=at, dropout=dropout)

    def tables(self, rows: Tensor) -> list[Tensor]:
        """A [M, r, in] and B [M, R, out] of each layer in turn, views of rows [M, P]."""
        parts = zip(rows.split(self.sizes, dim=1), self.features, strict=True)
        return [part.view(len(rows), -1, features) for part, features in parts]


class _Tables(torch.autograd.Function):
    """The tables of a bank's adapters; their gradients are added to the bank's own table.

    That happens at once, at the end of a backward pass: one that finds no memory adds nothing.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, bank: ExpertBank, adapters: slice) -> tuple[Tensor, ...]:
        ctx.bank, ctx.adapters = bank, adapters
        return tuple(bank.tables(bank.working[adapters]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        torch._foreach_add_(ctx.bank.tables(ctx.bank.gradient[ctx.adapters]), [*gradients])
        return None, None, None


def banks(adapters: Sequence[Adapter]) -> Iterator[tuple[ExpertBank, list[int]]]:
    """Adapters as banks, each with the adapters' places in the sequence.

    On a GPU ranks are padded to a multiple of 16, which its products are made of anyway, so that
    the banks are few; elsewhere a padded rank costs time, and only equal ones share a bank.
    """

    def shape(place: int) -> tuple[tuple[str, ...], tuple[int, int], float, bool]:
        adapter, config = adapters[place], adapters[place].config
        step = 16 if adapter.device.type == "cuda" else 1
        of_A, of_B = (-(-rank // step) * step for rank in (config.rank_of_A, config.total_rank))
        return tuple(adapter.layers), (of_A, of_B), config.dropout, config.shared_A

    for (_, ranks, *_), places in groupby(sorted(range(len(adapters)), key=shape), shape):
        own = [*places]
        yield ExpertBank([adapters[place] for place in own], ranks), own


def seeds_of_layers(seeds: Tensor, layers: int) -> Tensor:
    """Of each layer's dropout, int32 [layers, rows], from those of the rows, int64 [rows]."""
    layer = torch.arange(1, layers + 1, device=seeds.device).unsqueeze(1)
    mixed = (seeds * _ROW_SEED) ^ (layer * _LAYER_SEED)
    return (mixed & 0x7FFFFFFF).to(torch.int32)
