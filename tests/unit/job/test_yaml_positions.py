"""job.yaml as a file: broken YAML, YAML's surprises, and lines in faults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import BadInput
from provisioner.job import load, yaml_positions

GOOD = "name: hello\nrun:\n  command: 'true'\n"


def load_text(tmp_path, text, *settings):
    """Write a job.yaml and load it."""
    path = tmp_path / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load.load(path, settings)


def faults(tmp_path, text):
    """Load a job.yaml that is wrong; return its faults, without the folder's name."""
    with pytest.raises(BadInput) as caught:
        load_text(tmp_path, text)
    assert caught.value.exit_code == 2
    return [each.replace(f"{tmp_path}/", "") for each in caught.value.faults] or [caught.value.message]


CASES = [
    ("", "job.yaml: found an empty file; allowed: a mapping with at least name and run"),
    ("# nothing\n", "job.yaml: found an empty file"),
    ("hello", "job.yaml: found `hello`; allowed: a mapping with name"),
    ("- name: a\n", "job.yaml: found a list of 1; allowed: a mapping with name"),
    (
        "name: a: b\n",
        "job.yaml:1:8: found broken YAML (mapping values are not allowed here); allowed: YAML: `key: value`",
    ),
    ("name: [a\n", "job.yaml:2:1: found broken YAML"),
    ("name: 'a\n", "job.yaml:2:1: found broken YAML (found unexpected end of stream"),
    ("name: a\nrun:\n\tcommand: x\n", "job.yaml:3:1: found a tab in the indentation; allowed: spaces"),
    (GOOD + "---\n" + GOOD, "job.yaml:4:1: found a second document (`---`); allowed: one job a file"),
    (GOOD + "vm: *nope\n", "job.yaml:4:5: found broken YAML (found undefined alias 'nope'"),
    (GOOD + "name: again\n", "job.yaml:4: name: found the key again (first at job.yaml:1); allowed: each key once"),
    (GOOD + "  command: again\n", "job.yaml:4: run.command: found the key again (first at job.yaml:3)"),
    (
        GOOD + "  env: {on: x}\n",
        "job.yaml:4: run.env: found the key `on`, which YAML reads as bool; allowed: text as a key",
    ),
    (GOOD + "  env: {5: x}\n", "job.yaml:4: run.env: found the key `5`, which YAML reads as int"),
    (GOOD + "  env: {[a]: x}\n", "job.yaml:4: run.env: found a list or mapping as a key"),
    (
        GOOD + "  env: {A: yes}\n",
        'job.yaml:4: run.env.A: found yes, which YAML reads as true; allowed: text or a number (quote it: "yes")',
    ),
    (GOOD + "  env: {A: }\n", "job.yaml:4: run.env.A: found nothing (null)"),
    (GOOD + "  timeout:\n", "job.yaml:4: run.timeout: found nothing (null)"),
    (GOOD + "  timeout: 1:30\n", "job.yaml:4: run.timeout: found `1:30`; allowed: whole seconds"),
    (GOOD + "  timeout: 010\n", "job.yaml:4: run.timeout: found `010`"),
    (GOOD + "  timeout: 99999999999999999999\n", "job.yaml:4: run.timeout: found 99999999999999999999"),
    (GOOD + "retries: 1" + "0" * 5000 + "\n", "job.yaml:4: retries: found the tag !!int"),
    (GOOD + "retries: .nan\n", "job.yaml:4: retries: found .nan"),
    (GOOD + "outputs:\n  - a\n  - ../b\n", "job.yaml:6: outputs[1]: found `../b`"),
    (
        GOOD + "vm: !!python/object/apply:os.system ['touch pwned']\n",
        "job.yaml:4: vm: found the tag !!python/object/apply",
    ),
    (GOOD + "vm: !custom {a: 1}\n", "job.yaml:4: vm: found the tag !custom; allowed: plain values without a tag"),
    (GOOD + "vm: !!int x\n", "job.yaml:4: vm: found the tag !!int"),
    (GOOD + "vm: !!binary aGk=\n", "job.yaml:4: vm: found the tag !!binary"),
    (GOOD + "vm: &a {b: *a}\n", "job.yaml:4: vm.b: found an alias to something that it is part of"),
    (
        GOOD + "vm: {<<: 5}\n",
        "job.yaml:4: vm: found `<<` with something else; allowed: `<<` with an alias to a mapping",
    ),
    (GOOD + 'vm: "\\ud800"\n', "job.yaml:4: vm: found `?`; allowed: a mapping with"),
    (GOOD + "vm: \x01\n", "job.yaml:4: found the character 0x0001; allowed: printable text"),
    ("[" * 100_000, "job.yaml: found lists or mappings nested too deeply; allowed: a job"),
    (b"name: \xff\n", "job.yaml is not UTF-8 text (byte 6)"),
    ("name: a\n".encode("utf-16"), "job.yaml is not UTF-8 text (byte 0)"),
    (b"#" * (4 * 1024**2 + 1), "job.yaml is larger than 4MiB"),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[f"{number}" for number in range(len(CASES))])
def test_wrong_file(tmp_path, text, expected):
    """Each kind of wrong file gives one of its own sentences, with the line where it is known."""
    found = faults(tmp_path, text)
    assert [each for each in found if expected in each.replace(f"{tmp_path}/", "")], found
    assert not list(tmp_path.glob("pwned"))


def test_faults_of_text_and_of_meaning_come_together(tmp_path):
    """A duplicate key doesn't hide what else is wrong."""
    found = faults(tmp_path, GOOD + "name: Again\nretries: 99\n")
    assert [each.split("; ")[0] for each in found] == [
        "job.yaml:4: name: found the key again (first at job.yaml:1)",
        "job.yaml:4: name: found `Again`",
        "job.yaml:5: retries: found 99",
    ]


def test_aliases_cost_nothing(tmp_path):
    """Nested aliases that stand for 10^30 items are told as a fault at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    found = faults(tmp_path, GOOD + "\n".join(lines) + "\nvm: *a29\n")
    assert "job.yaml:34: vm: found a list of 10; allowed: a mapping with provider, boot_budget" in found


def test_merges_cost_nothing(tmp_path):
    """Nested merge keys that stand for 10^30 mappings cost one pass."""
    lines = ["m0: &m0 {A: b}"] + [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 30)]
    assert len(faults(tmp_path, GOOD + "\n".join(lines) + "\n")) == 30  # each an unknown key


def test_byte_order_mark(tmp_path):
    """A file that starts with a byte order mark is read."""
    assert load_text(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()).name == "hello"


@pytest.mark.parametrize("name", ["nope.yaml", "", ".", "a\0b", "x" * 5000])
def test_no_file(tmp_path, name):
    """A job.yaml that isn't there, or is a folder, is a sentence."""
    with pytest.raises(BadInput) as caught:
        load.load(tmp_path / name)
    assert "can't be read: " in caught.value.message
    assert len(caught.value.message) < 200


@given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"%@`#?<~ \t\n0.1yn")))
def test_any_text(text):
    """No text makes the reader raise: either it is a value or there is a fault."""
    complaints = []
    yaml_positions.load(text, where="job.yaml", complain=lambda *fault: complaints.append(fault))
    assert all(isinstance(part, str) for fault in complaints for part in fault)
