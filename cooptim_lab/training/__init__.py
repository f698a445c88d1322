"""Trains a Task. Knows no sockets, no processes and no notebooks: a communicator and three callables are its world."""
