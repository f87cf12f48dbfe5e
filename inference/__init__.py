"""The engine: draws pictures, and knows nothing of customers."""

import logging

# torchao tells whoever imports it, as diffusers does where it is there, of kernels for other machines, of its format for
# files, and of torch's next version.
for _name in ("torchao", "diffusers.quantizers.torchao.torchao_quantizer", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
