"""Many runs, measured beside each other: what carries a study, each study, and what a measurement says."""
