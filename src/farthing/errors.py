"""What can go wrong and is not our own bug. Every message says what was given, what is allowed and what to do.

FarthingError
├── InvalidRequest      an option, a parameter or an input that cannot be used as given
├── ModelError
│   ├── ModelNotFound      no such file, folder or known name
│   ├── UnsupportedModel   an architecture, tensor type or feature that is not implemented
│   └── CorruptModel       truncated, wrong magic, missing tensor, a length that lies
├── PriceError
│   └── UnknownModel       no price is known for this model (never treated as 0)
├── CapacityError       the request can never fit (context length, KV pages)
└── DownloadError       a registry or hub could not be reached, or a checksum differs
"""

__all__ = [
    "CapacityError",
    "CorruptModel",
    "DownloadError",
    "FarthingError",
    "InvalidRequest",
    "ModelError",
    "ModelNotFound",
    "PriceError",
    "UnknownModel",
    "UnsupportedModel",
]


class FarthingError(Exception):
    """Base of all errors a user can cause; the CLI prints its message in one line and exits with 1."""


class InvalidRequest(FarthingError):
    pass


class ModelError(FarthingError):
    pass


class ModelNotFound(ModelError):
    pass


class UnsupportedModel(ModelError):
    pass


class CorruptModel(ModelError):
    pass


class PriceError(FarthingError):
    pass


class UnknownModel(PriceError):
    pass


class CapacityError(FarthingError):
    pass


class DownloadError(FarthingError):
    pass
