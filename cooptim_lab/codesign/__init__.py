"""How to run, chosen by what the machine can do: what is predicted, gates, the race between plans, and the proof."""
