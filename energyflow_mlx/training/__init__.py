"""Training: objectives, their alternation, schedule, precision, step and loop."""
