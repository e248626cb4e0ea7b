"""The routers: S-BASE, HASH and RL-R of the paper, Switch, and loss-free balancing.

One file each, with a common interface (`interface`). A new router is a file and its line in
`ROUTERS`.
"""

from reference.routers.hash import Hash, HashRouter
from reference.routers.interface import (
    AbstractRouter,
    PolicyTrace,
    RouterOptions,
    RouterState,
    Routing,
)
from reference.routers.loss_free import LossFree, LossFreeRouter
from reference.routers.reinforce import Reinforce, ReinforceRouter
from reference.routers.sinkhorn_base import SinkhornBase, SinkhornBaseRouter
from reference.routers.switch import Switch, SwitchRouter

ROUTERS: dict[str, type[RouterOptions]] = {
    options.name: options for options in (SinkhornBase, Hash, Reinforce, Switch, LossFree)
}
"""Options class by the name used in commands and tables."""

__all__ = [
    "ROUTERS",
    "AbstractRouter",
    "Hash",
    "HashRouter",
    "LossFree",
    "LossFreeRouter",
    "PolicyTrace",
    "Reinforce",
    "ReinforceRouter",
    "RouterOptions",
    "RouterState",
    "Routing",
    "SinkhornBase",
    "SinkhornBaseRouter",
    "Switch",
    "SwitchRouter",
]
