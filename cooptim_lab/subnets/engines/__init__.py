"""How N subnets train at once on one rank: several at a time as one batched program where that is faster."""
