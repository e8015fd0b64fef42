"""The other servers, each in an environment of its own, serving the same model for the same load."""
