"""GPU tests on a fake driver: real ELF files, a tiny true NVML, the layouts of distributions."""
