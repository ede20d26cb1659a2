"""A root without a kernel that knows of it: files of a container changed, and undone."""
