"""EVPN as the control plane: VTEPs hear by BGP who is where, from routers and hosts of any maker.

Place in the house: in planes, above local and plane. messages.py is the API of a speaker, GoBGP, routes.py
what BGP routes mean, speaker.py speaks with it, book.py is what is known of its routes, mobility.py what
becomes of addresses that move, evpn.py keeps all in step. docs/evpn.md is for users.
"""
