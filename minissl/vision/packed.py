"""The bytes of a file, gzipped or not, with a limit on how many."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from minissl.errors import InputError

MOST_BYTES = 1 << 31  # of one file, unpacked: a small gzip file can hold more zeros than any memory
_GZIP = b"\x1f\x8b"


def read_packed(path: str | Path) -> bytes:
    """Return a file's bytes, unpacked where they begin as gzip does, whatever the file is called.

    Raises InputError where the file is missing, cannot be read, is damaged or cut short, or holds over MOST_BYTES.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"{path}: is not a file")
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            data = gzip.GzipFile(fileobj=file).read(MOST_BYTES + 1) if packed else file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except EOFError:
        raise InputError(f"{path}: the gzip file is cut short; download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); download it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: unpacks to more than {MOST_BYTES:,} bytes, the most that is read of one file")
    return data
