"""LoRAs of PEFT as adapters: one as it is, several as experts, and the tasks of Poly."""
