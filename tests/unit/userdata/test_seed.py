"""Seeds: what cloud-init will read from a folder or an ISO is what was rendered, and nobody else can read it."""

import gzip
import io
import json
import stat

import pycdlib
import pytest

from provisioner.errors import BadInput
from provisioner.userdata import parse, seed

FILES = {"meta-data": b'{"instance-id": "x"}\n', "user-data": b"#cloud-config\n\xff\0", "vendor-data": b""}


def read_iso(path, kind):
    """Every file of an ISO, by its name in Rock Ridge (rr_path) or Joliet (joliet_path)."""
    image = pycdlib.PyCdlib()
    image.open(str(path))
    try:
        label = image.pvd.volume_identifier.decode().strip()
        found = {}
        for child in image.list_children(**{kind: "/"}):
            if child.is_file():
                name = (
                    child.rock_ridge.name().decode()
                    if kind == "rr_path"
                    else child.file_identifier().decode("utf-16-be")
                )
                content = io.BytesIO()
                image.get_file_from_iso_fp(content, **{kind: f"/{name}"})
                found[name] = content.getvalue()
        return label, found
    finally:
        image.close()


@pytest.mark.parametrize("kind", ["rr_path", "joliet_path"])
def test_an_iso_reads_back(tmp_path, kind):
    """The ISO is labelled cidata and holds each file under its own name, byte for byte, for its owner alone."""
    path = tmp_path / "seed.iso"
    seed.write(FILES, path)
    assert read_iso(path, kind) == ("cidata", FILES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_is_closed(tmp_path):
    """The folder is 0700, its files 0600, and writing again replaces them and leaves nothing else."""
    folder = tmp_path / "a/seed"
    seed.write({**FILES, "user-data": b"older"}, folder)
    seed.write(FILES, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["file/seed", "file", "none/x.iso"])
def test_a_place_that_is_none_is_told(tmp_path, name):
    """Where no seed can be written, that is one sentence, and what was there stays."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="can't be written"):
        seed.write(FILES, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("words", "starts"), [([], b"\x1f\x8b"), (["--raw"], b"#cloud-config\n")])
def test_render_writes_a_seed(provision, tmp_path, words, starts):
    """`render --seed` writes the rendered document, gzipped or not, an instance-id of its own and no network-config."""
    done = provision("render", "examples/hello/job.yaml", "--local", "--seed", tmp_path / "s", *words)
    assert (done.code, done.out) == (0, ""), done.err
    files = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    assert sorted(files) == ["meta-data", "user-data", "vendor-data"]
    assert files["user-data"].startswith(starts)
    grant = json.loads(parse.unpack(files["user-data"]).file("/run/freepost/grant.json"))
    assert json.loads(files["meta-data"])["instance-id"] == f"{grant['job']}-0-1"
    if not words:
        assert gzip.decompress(files["user-data"]).startswith(b"#cloud-config\n")
