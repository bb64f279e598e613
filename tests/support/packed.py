"""The agent as a VM has it: packed, and unpacked again."""

import bz2

from agent.layout import ARCHIVE_MARK


def files(data):
    """The files of an archive, texts by name, in its order."""
    found = (part.decode().partition("\n") for part in bz2.decompress(data).split(ARCHIVE_MARK))
    return {f"{name}.py": text for name, _, text in found}


def unpack(data, folder):
    """Unpack an archive into `folder`, and return that."""
    for name, text in files(data).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
