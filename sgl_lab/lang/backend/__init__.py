"""The original's module names for backends."""
