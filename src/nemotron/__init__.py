"""A catalog of LLM post-training steps with typed artifacts between them."""

__version__ = "0.1.0"
