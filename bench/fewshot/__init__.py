"""Few-shot classification: data → sampler → network → train, the command."""
