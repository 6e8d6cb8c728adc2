"""What all control planes have in common for those who start them and look at them.

Place in the house: lowest of planes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

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


class Plane(Protocol):
    """A control plane of a VTEP that runs; while inside ``with`` it announces and hears."""

    name: str

    def changed(self) -> None:
        """What this host has to tell is not what it was; from any thread, quick."""

    def status(self) -> Status:
        """How it is; from any thread."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...
