"""How right is forensics? Prints tables of what it says of runs without the truth, against the truth.

python analysis/forensics_table.py results/forensics > analysis/FORENSICS.md
"""

import argparse
from pathlib import Path

from fempi.errors import FempiError
from fempi.forensics import evaluation, records

HEAD = """# How right forensics is

Made by

    fempi run configs/forensics.toml
    python analysis/forensics_table.py results/forensics > analysis/FORENSICS.md

from {count} runs. Clients stand out by their scores; those whose updates look like an attack are accused; of the others
it is said that they may only have unusual data. No truth is used for that, but only for these tables. AUC 0.5 is
guessing, and below it the attackers look more honest than the honest. The thresholds were chosen with runs like these
in view, these among them: other data may do worse.
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a record, or a folder of records")
    options = parser.parse_args()
    try:
        runs = [evaluation.evaluate(record) for record in records.find(options.paths)]
    except FempiError as error:
        parser.error(str(error))
    print(HEAD.format(count=len(runs)))
    print(evaluation.tables(runs))
