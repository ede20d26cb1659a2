"""Images on the move: registry and store joined, in parallel, with progress."""
