"""The version of harness: one place, which the package's metadata is built from.

A run from a checkout that nobody installed has no metadata, and must save all the same.
"""

VERSION = "0.1.0"
