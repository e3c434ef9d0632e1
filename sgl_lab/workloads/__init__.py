"""The workloads of the paper on RadixAttention, as programs to run, watch and compare.

Each file is one workload: its data, its program in the language, and how an answer is judged.
"""
