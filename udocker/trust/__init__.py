"""Which images may come in: policies, and signatures made with keys."""
