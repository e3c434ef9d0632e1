"""Modules of the original's server package that need no server, under their original names."""
