"""Signal analyses: arrays in, arrays out, no files.

Importing this package loads nothing; its modules load numba. Kernels are compiled on first use and cached on disk.
"""
