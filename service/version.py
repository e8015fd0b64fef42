"""The version of the service, stated once."""

VERSION = "0.1.0"
