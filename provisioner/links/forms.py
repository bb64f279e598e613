"""A signed POST policy as what people send it with: the fields of a form, and a curl line."""

from __future__ import annotations

import re
import shlex

from agent.grant import Target


def post_fields(target: Target) -> dict[str, str]:
    """The fields of a form as boto3's ``generate_presigned_post`` gives them; the store expands ``${filename}``."""
    form: dict[str, str] = target.form(key=target.prefix + "${filename}")
    return form


def curl_form(target: Target, file: str = "FILE") -> str:
    """A line for a shell that posts `file` with a signed policy, under its own name."""
    words = ["curl", "-f"]
    for name, value in post_fields(target).items():
        words += ["--form-string", f"{name}={value}"]  # unlike -F, takes a value that starts with @ or < as it is
    escaped = file.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.join(
        [*words, "-F", f'file=@"{escaped}"' if re.search(r'[;,"\\]', file) else f"file=@{file}", target.url]
    )
