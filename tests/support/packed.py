"""The agent as a VM has it: packed, and unpacked again."""

import io
import tarfile


def unpack(data, folder):
    """Unpack an archive into `folder`, and return that."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
    return folder
