"""The command line that the scripts in analysis/ have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from fempi.errors import FempiError
from fempi.forensics import records

RESOLUTION = 150
"""Dots per inch of a PNG"""


def of_records(text: str, what: str, draw: Callable[..., Figure]) -> None:
    """Draw the records named on the command line, or all in the folders named there; `text` is the script's own."""
    parser = _parser(text)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a record, or a folder of records")
    options = parser.parse_args()

    def drawn() -> Figure:
        found = records.find(options.paths)
        return draw(found, title=found[0].parent.name)

    _save(parser, options.output, what, drawn)


def of_record(text: str, what: str, draw: Callable[..., Figure]) -> None:
    """Draw the record named on the command line."""
    parser = _parser(text)
    parser.add_argument("path", type=Path, metavar="PATH", help="a record")
    options = parser.parse_args()
    _save(parser, options.output, what, lambda: draw(options.path, title=options.path.stem))


def of_round(text: str, what: str, draw: Callable[..., Figure]) -> None:
    """Draw one round of the record named on the command line."""
    parser = _parser(text)
    parser.add_argument("path", type=Path, metavar="PATH", help="a record")
    parser.add_argument("round", type=int, metavar="ROUND", help="a round, from 1")
    options = parser.parse_args()
    title = f"{options.path.stem}, round {options.round}"
    _save(parser, options.output, what, lambda: draw(options.path, options.round, title=title))


def _parser(text: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture: .png or .pdf")
    return parser


def _save(parser: argparse.ArgumentParser, output: Path, what: str, draw: Callable[[], Figure]) -> None:
    try:
        draw().savefig(output, dpi=RESOLUTION)
    except (FempiError, OSError, ValueError) as error:  # ValueError: matplotlib's of a format it cannot write
        parser.error(str(error))
    print(f"{what} in {output}")
