"""Where do the updates of a round lie? Draws them by their two principal components.

python analysis/update_map.py results/quickstart/dual.h5 23 -o update_map.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_round(__doc__, "map of updates", figures.update_map)
