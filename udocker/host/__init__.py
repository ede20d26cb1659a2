"""Facts about the machine, read below a root, never changed."""
