"""Finding out what works on a machine: an image of its own programs, run by every engine."""
