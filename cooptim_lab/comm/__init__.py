"""What a program on a rank may use of MPI: a communicator, calls that an interrupt can end, and what they cost."""
