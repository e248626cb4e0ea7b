"""The routers:
S-BASE, HASH and RL-R of the paper, and Switch. Each is a page; `interface` says what they have in
common."""

from reference.routers.hash import HashRouter
from reference.routers.interface import AbstractRouter, PolicyTrace, Routing
from reference.routers.reinforce import ReinforceRouter
from reference.routers.sinkhorn_base import SinkhornBaseRouter
from reference.routers.switch import SwitchRouter

__all__ = [
    "AbstractRouter",
    "HashRouter",
    "PolicyTrace",
    "ReinforceRouter",
    "Routing",
    "SinkhornBaseRouter",
    "SwitchRouter",
]
