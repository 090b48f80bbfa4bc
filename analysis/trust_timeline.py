"""Whom did the rule trust, and when? Draws the trust in each client over the rounds, and whose rows were let in.

python analysis/trust_timeline.py results/quickstart/dual.h5 -o trust_timeline.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_record(__doc__, "trust timeline", figures.trust_timeline)
