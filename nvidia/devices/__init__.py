"""The GPUs of a node and all its device nodes: which there are, and which are meant."""
