"""Adapters in the formats of other engines, and LoRAs of other engines as adapters."""
