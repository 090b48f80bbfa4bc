"""What tells attackers from others? Draws the ROC curve of each score over all rows of a run.

python analysis/roc.py results/quickstart/dual.h5 -o roc.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_record(__doc__, "ROC curves", figures.roc)
