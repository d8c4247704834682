"""A forward pass for decoding: few operations and a preallocated key-value cache.

At one token per pass, the general forward pass of `transformers` spends most of its time outside
the matrix products. This one reads the same weights from the same modules and computes the same
function:

* residual stream, norms and experts are in fp32, products with frozen weights in their own dtype;
* query, key and value are one product, as are gate and up, and as are their experts' A and B;
* the key-value cache is allocated once, and masks are computed once per pass;
* no pass synchronises with the device;
* with `Int8Weight`, passes of few tokens read weights of half the size, and their results are bit
  for bit those of one pass per token (`FastDecoder.is_batch_invariant`).

Supported are decoders of RMS norms, rotary positions, grouped-query attention and a gated MLP:
Gemma 3, Llama, Qwen 2 and Qwen 3. All others use the forward pass of `transformers`.
"""

from cgclora.inference.fast_decoder.cache import Cache as Cache
from cgclora.inference.fast_decoder.decoder import FastDecoder as FastDecoder
from cgclora.inference.fast_decoder.experts import BatchExperts as BatchExperts
