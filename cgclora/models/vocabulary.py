"""Which token ids a backbone can read: some tokenizers know words that it has no embedding for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # slow to import, and a backbone that is there has imported them
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def readable(model: PreTrainedModel) -> int:
    """How many token ids a backbone can read: those below this number."""
    embeddings: Any = model.get_input_embeddings()
    return len(embeddings.weight)


def pad_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up the rows of a batch: the tokenizer's, or 0 where it cannot be read.

    Under the mask any id would do.
    """
    own = cast(int, tokenizer.pad_token_id)
    return own if own < readable(model) else 0


def end_ids(
    settings: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    """Ids of the tokens that end an answer, of the tokenizer and of the generation config.

    Most chat models name several in the generation config, others than the tokenizer's.
    """
    ids = None if settings is None else settings.eos_token_id
    ids = ids if isinstance(ids, list | tuple) else [ids]
    return frozenset(one for one in (tokenizer.eos_token_id, *ids) if one is not None)


def unreadable_word(
    ids: Iterable[int], limit: int, tokenizer: PreTrainedTokenizerBase
) -> str | None:
    """The first word among token ids from `limit` up, which a backbone cannot read; else None."""
    unknown = next((token for token in ids if token >= limit), None)
    if unknown is None:
        return None
    return cast(str, tokenizer.convert_ids_to_tokens(unknown))
