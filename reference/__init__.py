"""The executable specification of routed language models.

Routers, routed blocks, the Transformer, its objective, and exact counts. `training` and `plan`
build on it; it imports neither.
"""
