"""How well does the model do, round by round? Draws the test accuracy of one or more records.

python analysis/accuracy_curves.py results/quickstart -o accuracy.png
"""

import argparse
from pathlib import Path

from fempi import RunFile
from fempi.forensics import figures


def main() -> None:
    """Draw the records named on the command line, or all in the folders named there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a record, or a folder of records")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture: .png or .pdf")
    options = parser.parse_args()
    records = [r for path in options.paths for r in (sorted(path.glob("*.h5")) if path.is_dir() else [path])]
    if not records:
        parser.error(f"no .h5 files in {', '.join(map(str, options.paths))}")
    records.sort(key=_created)
    figures.accuracy_curves(records, title=records[0].parent.name).savefig(options.output, dpi=150)
    print(f"accuracy curves in {options.output}")


def _created(path: Path) -> str:
    with RunFile(path) as record:
        return str(record.attributes["created"])


if __name__ == "__main__":
    main()
