"""The executable specification of routed language models: routers, routed blocks and their training. Empty so far."""
