"""What is looked at before the clock starts, on a copy, alike for every way: a file for each question."""
