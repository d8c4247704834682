"""The backbone's forward pass as decoding wants it: few operations, a preallocated cache.

A token at a time, a general forward pass spends most of its time beside the matrix products. This
one reads the same weights from the same modules and computes the same function:

* residual stream, norms and experts in fp32, products with the frozen weights in their own dtype;
* query, key and value are one product, as are gate and up; so are their experts' A and B;
* keys and values go into a cache that is allocated once, and masks are made once a pass;
* nothing in a pass waits for the device;
* with `Int8Weight`, passes of few tokens read weights of half the size, and what they find for a
  token is bit for bit what a pass of that token alone finds (`FastDecoder.keeps_apart`).

The decoders that it knows are made of RMS norms, rotary positions, grouped-query attention and a
gated MLP: Gemma 3, Llama, Qwen 2 and Qwen 3. All others take the path of `transformers`.
"""

from cgclora.inference.fast_decoder.cache import Cache as Cache
from cgclora.inference.fast_decoder.decoder import FastDecoder as FastDecoder
from cgclora.inference.fast_decoder.experts import BatchExperts as BatchExperts
