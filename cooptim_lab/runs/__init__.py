"""Runs: what happened (events), who holds it (run), what it left (result), where it is kept (store)."""
