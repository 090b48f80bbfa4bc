"""Who holds which labels? Draws the examples of each class that each client of a record holds.

python analysis/partition.py results/quickstart/dual.h5 -o partition.png
"""

from fempi.forensics import figures, script

if __name__ == "__main__":
    script.of_record(__doc__, "partition", figures.partition)
