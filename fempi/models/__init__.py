"""Models: one file each, a function of the image shape and the number of classes that returns a torch module.

The flat parameter vector is the whole state of a model, so modules with buffers (batch norm) are refused.
"""
