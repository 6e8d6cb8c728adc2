"""The CNI plugin `vxcore-cni`: attaches containers of Kubernetes and podman to a segment of a running VTEP.

Place in the house: above control, whose client it is, below commands. netlink.py makes devices, exchange.py
is what runtimes say and hear, ipam.py the plugin that gives addresses, masquerade.py the way out, plugin.py
the commands. It is run for each container, so it imports neither numpy nor msgspec, nor pyroute2, whose
start takes longer than its work. docs/containers.md is for users.
"""
