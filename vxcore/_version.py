"""The version, in one place: read by the build, by ``vxcore --version`` and by users."""

__version__ = "0.1.0"
