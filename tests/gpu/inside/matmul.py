"""PyTorch in a container: a matrix product on the GPU that agrees with the processor's."""

import sys

import torch

print("PyTorch", torch.__version__, "CUDA", torch.version.cuda)
if not torch.cuda.is_available():
    sys.exit("torch.cuda.is_available() is False")
print(torch.cuda.device_count(), "GPUs,", torch.cuda.get_device_name(0))
first, second = torch.randn(512, 512, dtype=torch.float64), torch.eye(512, dtype=torch.float64)
product = first.cuda() @ (3 * second.cuda())
assert torch.equal(product.cpu(), first @ (3 * second)), "the products differ"
print("512 x 512 products agree")
