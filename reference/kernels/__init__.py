"""Pallas kernels for TPU and GPU, each equal to a plain form elsewhere in `reference/`."""
