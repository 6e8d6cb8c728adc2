"""What unit and interop tests share; imported as `support` (see pythonpath in pyproject.toml)."""
