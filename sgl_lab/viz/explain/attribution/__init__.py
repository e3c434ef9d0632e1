"""Which pieces of a prompt made the model answer as it did: ablation of the pieces."""
