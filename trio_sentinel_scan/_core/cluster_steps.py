"""The vocabulary between the decisions of a cluster's scan and its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .identity import Address
    from .lanes import Lane

__all__ = ["Begin", "End", "Leave", "Step", "TakeSurvey", "Wait"]


@dataclass(frozen=True, slots=True)
class TakeSurvey:
    """Ask all masters, from now on. -> `surveyed`"""


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a lane, and go on at once. -> `began`, and `lane_over` when it is over"""

    lane: Lane
    # Where its node announces to be.
    address: Address
    # Whether that is to be a replica, in sync with its master.
    is_replica: bool = False
    config_epoch: int | None = None
    resume: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """The lane's node is not the one to sweep any more: tell the lane."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Until something happens, or so many seconds have gone by."""

    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """The scan has ended: end what is left of it."""


Step: TypeAlias = TakeSurvey | Begin | Leave | Wait | End
