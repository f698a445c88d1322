"""The way `subnets`: the network cut into N small ones, trained at the same time, fused."""
