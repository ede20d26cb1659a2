"""Work side by side: in threads, in processes, in stages."""
