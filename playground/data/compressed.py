"""What a gzip file holds, unpacked no further than the limit for files."""

import gzip
import io
import zlib

from playground.data.records import DataError, Limits, cap

GZIP = b"\x1f\x8b"


def unpacked(data: bytes, limits: Limits) -> bytes:
    """The content of gzip data; a bomb costs no more than an honest file of the largest size."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(limits.file_bytes + 1)
    except EOFError:
        raise DataError("the gzip data is cut off; compress or download the file again") from None
    except (OSError, zlib.error):
        raise DataError("the gzip data is damaged; compress or download the file again") from None
    cap(len(content), limits.file_bytes, "unpacked bytes")
    if content.startswith(GZIP):
        raise DataError("it is a gzip file inside a gzip file; unpack it once")
    return content
