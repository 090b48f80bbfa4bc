"""Measurements of what fempi costs on this machine, one file each."""
