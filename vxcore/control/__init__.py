"""The control socket of a running VTEP: a server in its process, and the client behind the commands.

Place in the house: above vtep, below daemon and commands. protocol.py is what is said, requests.py what a
request does, server.py a thread that listens, socket_file.py where; client.py needs neither numpy nor the
engine, so that a command starts at once. docs/control-socket.md is for those who write another client.
"""

from __future__ import annotations

PROTOCOL = 1
"""The version that the server's first line names; what is only added does not change it."""
MAX_LINE = 1 << 20
"""Bytes of a line, either way."""
