"""Errors for unknown names, with suggestions."""

import difflib
from collections.abc import Collection


class UnknownNameError(KeyError):
    """An unknown name; the message lists similar names, or all."""

    def __init__(self, kind: str, name: str, known: Collection[str]) -> None:
        by_lower = {one.lower(): one for one in known}
        near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower)]
        hint = f"did you mean {', '.join(near)}?" if near else f"the {kind}s are {', '.join(known)}"
        super().__init__(f"no {kind} is called {name!r}; {hint}")

    def __str__(self) -> str:
        return str(self.args[0])
