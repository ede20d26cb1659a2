"""The options of `run` and `create`: a table, and for each subject what its words ask for."""
