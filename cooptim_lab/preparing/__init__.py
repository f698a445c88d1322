"""What is done of a task before the clock, alike for every way: built, read, examined; and how outputs are scored."""
