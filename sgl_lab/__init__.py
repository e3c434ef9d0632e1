"""sgl_lab: see an LLM program run."""
