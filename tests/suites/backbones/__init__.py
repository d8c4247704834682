"""Every causal language model of transformers, tiny: is the method the same on it?"""
