"""How a control plane is: what `show plane`, metrics and the control socket tell of it.

Place in the house: on the ground, for those who tell it stand below planes, which know it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["connecting", "connected", "stale"]
"""Nothing is known yet; it is as others say; it is what they said before the connection was lost."""


class Trouble(NamedTuple):
    """Something that is not as it should be, by the name it has there: a key, say."""

    what: str
    why: str


class Status(NamedTuple):
    """How a control plane is."""

    plane: str
    state: State
    since_s: float
    """For how long it has been so."""
    peer: str
    """Whom it speaks with, or spoke with last."""
    reason: str
    """Why it is not connected."""
    heard: int
    """What others say: members and endpoints."""
    announced: int
    """What others can hear of this host."""
    troubles: tuple[Trouble, ...]
    counts: dict[str, int]
