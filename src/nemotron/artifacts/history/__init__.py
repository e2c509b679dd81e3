"""What an artifact itself tells of how it was made elsewhere: by NeMo-RL, Megatron-Bridge, axolotl, ..."""

from nemotron.artifacts.history.model import History, Parent
from nemotron.artifacts.history.read import read_history

__all__ = ["History", "Parent", "read_history"]
