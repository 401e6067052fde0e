"""Training on many machines: MPI through mpi4py, which is imported under a launcher only."""
