"""How long are the updates? Draws a histogram of their norms, of attackers and of others.

python analysis/norms.py results/quickstart/dual.h5 -o norms.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_record(__doc__, "norms", figures.norms)
