"""Analysis of records after the fact: h5py and numpy, no MPI and no torch."""
