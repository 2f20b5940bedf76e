"""Its error."""

from zlib import error as IsalError

__all__ = ["IsalError"]
