"""The native CPU step: its C++ sources, their build, the packing of weights, and reference versions
in torch.
"""
