"""What the training form needs to know of the backbone, available once it is loaded."""

from collections.abc import Sequence
from contextlib import suppress

from cgclora.storage.layer_shapes import LayerKind, layer_kinds
from evals.data.report import CountTokens
from evals.experiments.training_plan import kinds_of_model
from ui.engine.engine import Engine


class BackboneFacts:
    """Layers, size and tokenizer of an engine's backbone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kinds: tuple[LayerKind, ...] | None = None
        self._parameters: int | None = None
        self._count: CountTokens | None = None

    def kinds(self) -> tuple[LayerKind, ...] | None:
        """Its linear layers; None if neither the backbone nor an adapter of it can be read yet."""
        self._read()
        if self._kinds is None:
            # If the adapter was made for another backbone, loading will find out.
            for name in self._engine.adapters():
                if self._engine.configs[name].target_modules is None:
                    with suppress(ValueError):
                        return layer_kinds(self._engine.path(name))
        return self._kinds

    def modules(self) -> list[str]:
        """Names of its kinds of linear layers."""
        return [*dict.fromkeys(kind.name for kind in self.kinds() or ())]

    def parameters(self) -> int | None:
        """Number of its parameters; None before it is loaded."""
        self._read()
        return self._parameters

    def count_tokens(self) -> CountTokens | None:
        """Its tokenizer as a counter, always the same object; None before it is loaded."""
        self._read()
        return self._count

    def _read(self) -> None:
        backbone = self._engine.backbone
        if self._count is not None or backbone is None:
            return
        from cgclora.adapter import backbone_parameters  # noqa: PLC0415 - torch is loaded by now

        tokenizer = backbone.tokenizer

        def count(texts: Sequence[str]) -> Sequence[int]:
            encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            return [len(ids) + 2 for ids in encoded]  # with the start and the end token

        self._kinds = kinds_of_model(backbone.model)
        self._parameters = backbone_parameters(backbone.model)
        self._count = count
