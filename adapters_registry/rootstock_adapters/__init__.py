"""What an adapter is: the kinds, their configs, their tensors and their reference mathematics.

Specs are torch-free; ops need torch. Refuses to know where an adapter is stored or served.
"""
