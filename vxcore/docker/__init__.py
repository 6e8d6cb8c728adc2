"""Docker's network driver `vxcore`: networks of containers over many hosts, each network a segment.

Place in the house: above control, below daemon, which serves it beside a VTEP when the settings have a table
``[docker]``. protocol.py is what Docker says and hears, networks.py what is known of networks and their file,
devices.py their network devices, driver.py what a request does, server.py HTTP on a socket.
docs/containers.md is for users.

A network has a TAP of its own, on which each container has a macvlan device: containers of one host reach
each other there, and the others through the segment. The TAP stays when vxcore ends, and with it what
containers have, so that a restart is a pause. The way out, and published ports, are Docker's own business: to
each container of a network whose driver names no gateway it gives a second device, on its bridge
`docker_gwbridge`.
"""
