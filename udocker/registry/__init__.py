"""Image names and the registries that they lead to."""
