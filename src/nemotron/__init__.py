"""A catalog of LLM post-training steps with typed artifacts between them."""
