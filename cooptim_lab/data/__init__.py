"""Where rows come from: a task's data, built-in data, files that are mapped. Knows no ranks, no networks."""
