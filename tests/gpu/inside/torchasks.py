"""Ask PyTorch in a container for CUDA, and have it compute."""

import torch

print("PyTorch", torch.__version__)
assert float((torch.ones(64, 64) @ torch.ones(64, 64))[0, 0]) == 64.0
print(f"torch.cuda.is_available() is {torch.cuda.is_available()}")
