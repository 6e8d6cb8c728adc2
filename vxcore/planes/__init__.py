"""Control planes: what VTEPs tell each other by a store or by routes, instead of flooding.

Place in the house: above vtep, below docker and daemon. local.py is what this host has to tell; what others
say goes into the tables by ``Vtep.tell``.
"""
