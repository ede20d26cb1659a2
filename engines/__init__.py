"""Ways to run a container; imported as `udocker.engines`."""
