"""The way `sharded`: the rows dealt over M ranks, the same network on each, what they learn aggregated."""
