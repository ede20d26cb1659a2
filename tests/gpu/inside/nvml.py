"""What nvidia-ml-py tells, in a container or outside: a line for each GPU."""

import pynvml

pynvml.nvmlInit()
for index in range(pynvml.nvmlDeviceGetCount()):
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    print(index, pynvml.nvmlDeviceGetName(device), pynvml.nvmlDeviceGetUUID(device))
