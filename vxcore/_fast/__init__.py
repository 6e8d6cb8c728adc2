"""The compiled fast path; each module's source is under pyx/vxcore/_fast/."""
