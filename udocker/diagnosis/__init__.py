"""What `udocker doctor` finds out of a machine: facts, what they mean, and what would help."""
