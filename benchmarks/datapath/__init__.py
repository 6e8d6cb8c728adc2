"""The data path beside its neighbours: TCP, small packets and round trips through VTEPs, in one run.

Place in the house: suite `datapath` of `vxcore bench`. From the ground up: load (traffic.pyx), topology
(hosts), vteps and openvswitch (who is measured), tcp, pps and latency (what is measured), plan (in which
order); and report, which makes the tables of docs/performance.md from results alone.
"""
