"""The native CPU step: C++ sources, how they are built, how weights are packed for them, and their torch twins."""
