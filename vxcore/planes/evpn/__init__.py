"""EVPN as the control plane: VTEPs hear by BGP who is where, from routers and hosts of any maker.

Place in the house: in planes, above local and plane. messages.py is the API of a speaker, GoBGP, routes.py
what BGP routes mean, speaker.py speaks with it, book.py is what is known of its routes, mobility.py what
becomes of addresses that move, evpn.py keeps all in step. docs/evpn.md is for users.
"""

from __future__ import annotations

from importlib import import_module

from vxcore.errors import MissingExtraError

try:
    for _name in ("google.protobuf", "grpclib"):
        import_module(_name)
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "[evpn] needs grpclib and protobuf: `pip install 'vxcore[evpn]'` brings them"
    ) from error
