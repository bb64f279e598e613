"""What every way to upload is held to."""

# Names that a form, a URL, a shell or a listing could trip over.
NAMES = (
    "plain.txt",
    "empty",
    "sub/dir/deep",
    "ü ä/日本語",
    "a+b&c=d?e#f;g",
    "quote\"s'",
    "new\nline",
    "50%25",
    "${filename}",
)


def content(name):
    """What a file of this name holds."""
    return b"" if name == "empty" else name.encode() * 3
