"""How well does the model do, round by round? Draws the test accuracy of one or more records.

python analysis/accuracy_curves.py results/quickstart -o accuracy.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_records(__doc__, "accuracy curves", figures.accuracy_curves)
