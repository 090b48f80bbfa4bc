"""Who sends the same? Draws the cosine between each two updates of a round.

python analysis/cosine_map.py results/quickstart/dual.h5 23 -o cosine_map.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_round(__doc__, "cosine map", figures.cosine_map)
