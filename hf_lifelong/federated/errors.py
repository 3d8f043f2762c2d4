"""Errors of clients."""


class ClientError(ValueError):
    """An error whose text says nothing about a client's rows, so that the server may read it."""
