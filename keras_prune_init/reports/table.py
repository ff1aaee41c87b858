"""Reports as text: tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(
    rows: Sequence[Sequence[str]], left: int = 1, sums: bool = False
) -> list[str]:
    """Return lines of equal length: a header, a rule, and a line for each other row.

    The first `left` columns are flush left, the others flush right. If the last row has
    sums, a rule comes before it, too.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        cells = zip(row, widths, strict=True)
        return "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(cells)
        )

    lines = [line(row) for row in rows]
    rule = "-" * len(lines[0])
    if sums:
        lines.insert(-1, rule)
    return [lines[0], rule, *lines[1:]]


def count(value: int | None) -> str:
    """Return a number with commas; `None` is one that is not known."""
    return "unknown" if value is None else f"{value:,}"
