"""Compares recorded runs. All functions are pure functions of records and draw nothing."""
