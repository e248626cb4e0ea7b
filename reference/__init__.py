"""The executable specification of routed language models: routers, routed blocks, the model and its
objective, and exact counts.

`plan` (what it takes on TPUs) and `training` (from text to curves) are built on it, and it needs
neither.
"""
