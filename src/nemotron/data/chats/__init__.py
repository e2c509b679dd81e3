"""Chat data sets by the names and keys of NeMo-RL, read without a change to what is in them."""
