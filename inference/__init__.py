"""The engine: draws pictures, and knows nothing of customers."""

import logging

# Where torchao is there diffusers imports it, and it tells of kernels for other machines, its own files' format, and
# torch's next version.
for _name in ("torchao", "diffusers.quantizers.torchao.torchao_quantizer", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
