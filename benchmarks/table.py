"""A table that is printed row by row, as plain text or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Table:
    """
    Prints its head when it is made.

    Args:
        columns: names and widths.
        markdown: whether to print Markdown.
    """

    def __init__(self, columns: Mapping[str, int], markdown: bool) -> None:
        self.columns, self.markdown = columns, markdown
        self._print(list(columns))
        if markdown:
            print("|" + "---|" * len(columns))

    def add(self, **cells: object) -> None:
        """Prints a row; a column without a cell stays empty, and numbers get three digits."""
        self._print([_text(cells.get(name)) for name in self.columns])

    def _print(self, cells: Sequence[str]) -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, self.columns.values())]
        print(f"| {' | '.join(cells)} |" if self.markdown else "  ".join(padded).rstrip(), flush=True)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"
    return "" if cell is None else str(cell)
