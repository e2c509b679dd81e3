"""The trainer that runs on any laptop and any single GPU: SFT, reward models, DPO and GRPO on trl.

It reads the config keys of NeMo-RL, so that one config describes a run here and on a cluster; `keys.py`
says for every key what this engine makes of it.
"""
