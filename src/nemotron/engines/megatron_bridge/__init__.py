"""Megatron-Bridge: configs checked before they cost a job, and what starts it in its container."""
