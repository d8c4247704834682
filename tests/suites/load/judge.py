"""Whose answer it is: whether a model could have given a text to a prompt, rounding aside.

Batches of other shapes round otherwise, so an answer of many users at once is not always the text
that its prompt gets alone: where two words are about as likely, the other one is said, and all that
follows is another text. Read word by word after its own prompt, though, each of its words is the
likeliest one or next to it. After somebody else's prompt or with somebody else's experts it is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from cgclora.inference.batch import Batch
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request, encode_requests
from cgclora.models.backbone import Backbone
from evals.tasks import TASKS
from tests.suites.load.prompt import Prompt

_CANDIDATES = 64
_HALF = "\ufffd"  # what a token that ends within a character is read as


class Judge:
    """A model of its own, with the adapters that the app has.

    Args:
        backbone: As the app loads it.
        adapters: Their folders, by cluster.

    Attributes:
        clusters: All of them.
    """

    def __init__(self, backbone: Backbone, adapters: Mapping[str, Path]) -> None:
        self._backbone = backbone
        self.clusters = Clusters(backbone)
        for name, path in adapters.items():
            self.clusters.add(name, path)

    def gap(self, asked: Prompt, answer: str) -> float:
        """How far a text is from what a prompt gets.

        The text is said token by token, each time by the likeliest token that goes on with it, and
        ended unless it is as long as it may be.

        Returns:
            The difference of log-likelihoods, in nats, between the likeliest token of all and the
            said one, where it is largest; 0 for the likeliest text, infinite for one that no
            likely tokens add up to.
        """
        most = TASKS[asked.task].max_new_tokens
        request = Request(asked.task, asked.prompt, 2 * most + 1, cluster=asked.cluster)
        tokenizer = self._backbone.tokenizer
        (encoded,) = encode_requests(self._backbone, [request], self.clusters)
        batch = Batch(self._backbone, self.clusters, [request], [encoded.ids])
        logits, said, largest = batch.prefill()[0].float(), list[int](), 0.0
        while tokenizer.decode(said) != answer:
            likely = zip(*(of.tolist() for of in logits.topk(_CANDIDATES)), strict=True)
            fitting = (
                (value, token)
                for value, token in likely
                if answer.startswith(tokenizer.decode([*said, token]).rstrip(_HALF))
            )
            best = next(fitting, None)
            if best is None or len(said) == 2 * most:
                return math.inf
            value, token = best
            largest = max(largest, float(logits.max()) - value)
            said.append(token)
            logits = batch.step([token])[0].float()
        if len(said) >= most:
            return largest
        return max(largest, float(logits.max() - logits[sorted(self._backbone.ends)].max()))
