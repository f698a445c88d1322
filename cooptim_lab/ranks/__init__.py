"""MPI ranks as a service: started once, guarded, asked to run programs, gone with their owner."""
