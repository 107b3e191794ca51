"""farthing: answers language-model requests for the least money, and shows the bill."""

__version__ = "0.1.0"
__all__ = ["__version__"]
