"""What all figures have in common."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette: readable for the colour-blind"""
HONEST, MALICIOUS = COLOURS[0], COLOURS[1]
MARKERS = "os^Dv<>P"
