"""Scaling laws for routed language models: load runs, fit laws to their true optimum, and say what the fits mean."""
