"""Checkpoints of models, Hugging Face and Megatron: looked into, compared, converted.

All but `convert_lora` works with the standard library and moves bytes as they are: no torch, no weights in
memory.
"""
