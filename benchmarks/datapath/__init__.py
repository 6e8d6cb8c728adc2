"""The data path beside its neighbours: TCP, small packets and round trips through VTEPs, in one run.

Place in the house: `make bench-datapath` runs it (`python -m benchmarks.datapath`). From the ground up:
results (what a run leaves), machine (CPU time, noise), load (traffic.pyx), topology (hosts), vteps and
openvswitch (who is measured), tcp, pps and latency (what is measured), plan (in which order), __main__;
and report, which makes the tables of docs/performance.md from results alone.
"""
