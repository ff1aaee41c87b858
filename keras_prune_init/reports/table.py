"""Reports as text: columns that line up."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of equal length: a header, a rule, and one line for each other row.

    Args:
        rows: Cells; the first row is the header.
        left: How many columns, from the first, are flush left; the others flush right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        cells = zip(row, widths, strict=True)
        return "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(cells)
        )

    lines = [line(row) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
