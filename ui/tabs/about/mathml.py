"""Formulas as MathML, which browsers typeset by themselves.

A function takes and gives markup; `symbol` and `number` are where text goes in.
"""

from html import escape


def formula(*parts: str) -> str:
    """A formula on a line of its own."""
    return f'<math display="block"><mrow>{"".join(parts)}</mrow></math>'


def symbol(name: str) -> str:
    """A variable; a name of several letters stands upright."""
    return f"<mi>{escape(name)}</mi>"


def number(value: float) -> str:
    """A number."""
    return f"<mn>{value:g}</mn>"


def sign(character: str) -> str:
    """An operator or a bracket."""
    return f"<mo>{escape(character)}</mo>"


def words(text: str) -> str:
    """Words inside of a formula."""
    return f"<mtext>{escape(text)}</mtext>"


def row(*parts: str) -> str:
    """Parts that stay together."""
    return f"<mrow>{''.join(parts)}</mrow>"


def sub(base: str, index: str) -> str:
    """A base with an index."""
    return f"<msub>{base}{index}</msub>"


def sup(base: str, power: str) -> str:
    """A base with something above it."""
    return f"<msup>{base}{power}</msup>"


def fraction(above: str, below: str) -> str:
    """One over the other."""
    return f"<mfrac>{above}{below}</mfrac>"


def total(under: str) -> str:
    """A sum sign with an index under it."""
    return f"<munder>{sign('∑')}{under}</munder>"


def cases(*lines: tuple[str, str]) -> str:
    """A value and when it holds, a line each."""
    rows = "".join(f"<mtr><mtd>{value}</mtd><mtd>{when}</mtd></mtr>" for value, when in lines)
    return row(sign("{"), f'<mtable columnalign="left left">{rows}</mtable>')
