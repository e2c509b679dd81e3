"""What other tools are told of a run: OpenLineage events, Weights & Biases."""
