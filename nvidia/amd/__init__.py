"""AMD's GPUs, by the same words."""
