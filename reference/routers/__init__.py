"""The routers: S-BASE, HASH and RL-R of the paper, Switch, and loss-free balancing.

A router is a module in a file of its own (an `interface.AbstractRouter`), and its options with
their entry in the registry (`options`). This file imports the options alone, which need no JAX.
"""

from reference.routers.options import (
    ROUTERS,
    Hash,
    LossFree,
    Reinforce,
    RouterOptions,
    SinkhornBase,
    Switch,
)

__all__ = ["ROUTERS", "Hash", "LossFree", "Reinforce", "RouterOptions", "SinkhornBase", "Switch"]
