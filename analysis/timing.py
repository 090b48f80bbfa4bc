"""Where did the time go? Draws the mean seconds of a round by phase, of one or more records.

python analysis/timing.py results/quickstart -o timing.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_records(__doc__, "timing", figures.timing)
