"""Benchmarks: training, decoding and growth, side by side with what people use."""
