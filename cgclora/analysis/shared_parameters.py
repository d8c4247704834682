"""What all tasks of an adapter share, as one vector: gradients by it, and steps along them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgclora.adapter import Adapter
from cgclora.config import ConfigError
from cgclora.layer import ExpertLinear


class SharedParameters:
    """The common experts' parameters of an adapter as one vector of P values.

    Raises:
        ConfigError: It has no common expert.
    """

    def __init__(self, adapter: Adapter) -> None:
        common = adapter.config.common * adapter.config.expert_rank
        if not common:
            raise ConfigError(
                "affinity is measured on parameters that all tasks share: give the adapter "
                "common experts."
            )
        of_A = adapter.config.rank_of_A if adapter.config.shared_A else common
        self._tables = []
        for layer in adapter.layers.values():
            tables = zip(ExpertLinear.adapter_parameter_names, (of_A, common), strict=True)
            for dim, (name, ranks) in enumerate(tables):
                self._tables.append((getattr(layer, name)[adapter.name], dim, ranks))

    def _vector(self, values: Sequence[Tensor]) -> Tensor:
        parts = [
            value.narrow(dim, 0, ranks).flatten()
            for value, (_, dim, ranks) in zip(values, self._tables, strict=True)
        ]
        return torch.cat(parts)

    def values(self) -> Tensor:
        """A copy of them, [P]."""
        return self._vector([parameter.detach() for parameter, _, _ in self._tables])

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient of a loss by them, [P]."""
        return self._vector(torch.autograd.grad(loss, [table[0] for table in self._tables]))

    def preconditioner(self, optimizer: torch.optim.Adam) -> Tensor:
        """1 / (sqrt(v) + epsilon) with Adam's bias-corrected second moment v of them, [P].

        It is 0 where v is 0: no gradient has reached these values yet, as A while B is zero, so
        that nothing is known of how far Adam would move them. 1 / epsilon would be 10^8 times a
        gradient, and all other steps vanish beside it.
        """
        moments = [optimizer.state[parameter] for parameter, _, _ in self._tables]
        (_, beta), epsilon = optimizer.defaults["betas"], optimizer.defaults["eps"]
        corrected = [m["exp_avg_sq"] / (1 - beta ** float(m["step"])) for m in moments]
        v = self._vector(corrected)
        return torch.where(v > 0, 1 / (v.sqrt() + epsilon), 0)

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Set them."""
        start = 0
        for parameter, dim, ranks in self._tables:
            target = parameter.narrow(dim, 0, ranks)
            target.copy_(vector[start : start + target.numel()].view(target.shape))
            start += target.numel()
