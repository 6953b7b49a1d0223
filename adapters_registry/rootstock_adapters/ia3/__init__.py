"""IA3: learned factors on what goes into or comes out of linears (Liu et al., arXiv 2205.05638)."""
