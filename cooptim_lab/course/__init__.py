"""The course: a question, a locked prediction, one run of the student's own, a verdict on both number and reason."""
