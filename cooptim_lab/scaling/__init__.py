"""What a measurement says beyond itself: laws of scaling, their limits."""
