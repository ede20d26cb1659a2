"""What of the host's GPU must reach a container; imported as `udocker.nvidia`."""

# A checkout on sys.path would make this folder the top-level package `nvidia`, which the
# CUDA wheels share (nvidia.cublas, ...). Under that name it only passes on to theirs.
if __name__ == "nvidia":
    from pkgutil import extend_path

    __path__ = extend_path(__path__, __name__)
