"""What a user asks."""

from typing import NamedTuple


class Prompt(NamedTuple):
    """A prompt for a task of a cluster."""

    cluster: str
    task: str
    prompt: str
