"""Checkpoints that only who has the key can make, on storage that others can write to."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash
from checkpoint_samples import entry_of, save, store_in

from harness import cli
from harness.errors import CheckpointError, UsageError
from harness.run.checkpoints.manifest import MANIFEST_NAME, read_manifest
from harness.run.checkpoints.signature import SigningKey, read_key
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import sign, verify, verify_before_load

UNSIGNED = "manifest.json is not to be trusted: it is not signed, and the configuration asks for a signature"
FORGED = "manifest.json is not to be trusted: its signature is wrong: it was made with another key, or the manifest was"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(bytes(range(32)))
    return path


@pytest.fixture
def key(key_file: Path) -> SigningKey:
    return read_key(key_file)


@pytest.fixture
def store(tmp_path: Path, key: SigningKey) -> CheckpointStore:
    """A store with a signed checkpoint of step 10."""
    made = replace(store_in(tmp_path), key=key)
    save(made, 10)
    return made


def replace_in_manifest(folder: Path, old: str, new: str) -> None:
    text = (folder / MANIFEST_NAME).read_text()
    assert old in text
    text = re.sub(r',\n  "checksum": "[0-9a-f]{16}"\n}\n\Z', "\n}\n", text.replace(old, new))  # anybody can make one
    (folder / MANIFEST_NAME).write_text(text)


def harness(*arguments: object) -> int:
    return cli.run(["checkpoint", *map(str, arguments)])


def test_what_was_signed_is_taken_and_loses_nothing_when_it_is_amended(store: CheckpointStore, key: SigningKey) -> None:
    folder = store.run_dir.checkpoint(10)
    assert verify(folder, deep=True, key=key) == []
    assert all(record.sha256 for record in read_manifest(folder, key).files.values())
    store.amend(entry_of(store, folder), health="suspect", pinned=True)
    assert verify(folder, deep=True, key=key) == []
    assert store.choose("must", deep=True, healths=("suspect",)).entry is not None
    assert verify(folder, deep=True) == []  # whoever asks for no signature may read it too


def test_what_was_not_signed_is_passed_over(store: CheckpointStore) -> None:
    save(replace(store, key=None), 20)
    choice = store.choose("must", deep=True)
    assert choice.entry is not None
    assert choice.entry.step == 10
    assert [item.reason for item in choice.passed_over] == [UNSIGNED]
    with pytest.raises(CheckpointError, match="is not signed"):
        verify_before_load(store.run_dir.checkpoint(20), key=store.key)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"health": "clean"', '"health": "suspect"'), ('"step": 10', '"step": 11'), ('"signature": "', '"signature": "0')],
)
def test_an_altered_manifest_is_not_trusted(store: CheckpointStore, old: str, new: str) -> None:
    folder = store.run_dir.checkpoint(10)
    replace_in_manifest(folder, old, new)
    (problem,) = verify(folder, key=store.key)
    assert problem.startswith("manifest.json is not to be trusted: ")


def test_another_key_does_not_fit(store: CheckpointStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_bytes(bytes(33))
    (problem,) = verify(store.run_dir.checkpoint(10), key=read_key(other))
    assert problem.startswith(FORGED)


def test_a_file_with_the_same_xxh3_but_other_content_is_found(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.run_dir.checkpoint(10)

    class Collision:
        """As somebody would have it who can make files of a given XXH3."""

        def __init__(self) -> None:
            self._name = next(names)

        def update(self, data: object) -> None: ...

        def hexdigest(self) -> str:
            return promised[self._name]

    promised = {name: record.xxh3 for name, record in read_manifest(folder).files.items()}
    shard = folder / "__0_0.distcp"
    shard.write_bytes(bytes(shard.stat().st_size))
    monkeypatch.setattr(xxhash, "xxh3_64", Collision)
    monkeypatch.setattr("harness.run.checkpoints.contents.NUM_THREADS", 1)  # hashed in the order of their names
    names = iter(sorted(promised))
    assert verify(folder, deep=True) == []
    names = iter(sorted(promised))
    assert verify(folder, deep=True, key=store.key) == [
        "'__0_0.distcp' was forged: its XXH3 fits, its SHA-256 does not"
    ]


def test_an_older_checkpoint_can_be_signed_if_it_is_sound(store: CheckpointStore, key: SigningKey) -> None:
    plain = save(replace(store, key=None), 20)
    sign(plain, key)
    assert verify(plain, deep=True, key=key) == []
    damaged = save(replace(store, key=None), 30)
    shard = damaged / "__0_0.distcp"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CheckpointError, match="was not signed: '__0_0.distcp' was altered since it was saved"):
        sign(damaged, key)


def test_the_commands_ask_for_the_signature(
    store: CheckpointStore, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, signed = store.run_dir.root, store.run_dir.checkpoint(10)
    plain = save(replace(store, key=None), 20)
    option = ("--signature-key-file", key_file)
    assert harness("verify", run, *option) == 65
    assert UNSIGNED in capsys.readouterr().out
    assert harness("list", run, "--json", *option) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row.get("problem") for row in listed] == [None, UNSIGNED]
    assert harness("pin", plain, *option) == 65
    assert f"{plain} was not changed: {UNSIGNED}" in capsys.readouterr().err
    assert harness("pin", signed) == 64
    assert "is signed, and would not be any more: give --signature-key-file" in capsys.readouterr().err
    assert harness("pin", signed, *option) == 0
    assert harness("sign", plain) == 64
    assert "there is no key to sign with: give --signature-key-file" in capsys.readouterr().err
    assert harness("sign", plain, *option) == 0
    assert harness("verify", run, "--deep", *option) == 0
    assert harness("inspect", plain, *option) == 65  # sound, but its index is no index
    assert "cannot be read" in capsys.readouterr().err


def test_the_key_that_the_run_names_is_used(
    store: CheckpointStore, key_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.config.load import dump_config, load_config

    tiny = Path(__file__).parents[2] / "model_configs" / "tiny.yaml"
    config = load_config(tiny, [f"checkpoint.signature_key_file={key_file}"])
    store.run_dir.config.write_text(dump_config(config))
    save(replace(store, key=None), 20)
    assert harness("verify", store.run_dir.root) == 65
    assert UNSIGNED in capsys.readouterr().out
    store.run_dir.config.unlink()
    assert harness("verify", store.run_dir.root) == 0
    monkeypatch.setenv("HARNESS_SIGNATURE_KEY_FILE", str(key_file))
    assert harness("verify", store.run_dir.root) == 65


def test_keys_that_are_not_used(tmp_path: Path, key_file: Path) -> None:
    advice = "Make one with: (umask 077; head -c 32 /dev/urandom > {})"
    missing, link = tmp_path / "missing", tmp_path / "link"
    with pytest.raises(UsageError) as caught:
        read_key(missing)
    assert str(caught.value) == f"the key {missing} does not exist. {advice.format(missing)}"
    link.symlink_to(key_file)
    with pytest.raises(
        UsageError, match="it must be a regular file that belongs to you, has no second name, and is no"
    ):
        read_key(link)
    key_file.chmod(0o640)
    with pytest.raises(UsageError) as caught:
        read_key(key_file)
    assert str(caught.value) == (
        f"the key {key_file} is not used: others may read or change it (mode 640). chmod 600 {key_file}"
    )
    key_file.chmod(0o600)
    key_file.write_bytes(b"short")
    with pytest.raises(UsageError) as caught:
        read_key(key_file)
    assert str(caught.value) == (f"the key {key_file} has 5 bytes, at least 32 are needed. {advice.format(key_file)}")


def test_a_key_does_not_show_itself(key: SigningKey) -> None:
    assert repr(key) == "SigningKey()"


@pytest.mark.parametrize("verb", [["to-hf", "HERE", "OUT"], ["average", "HERE", "OUT"], ["check", "HERE", "HERE"]])
def test_converters_refuse_what_is_not_signed(
    verb: list[str], store: CheckpointStore, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"HERE": str(save(replace(store, key=None), 20)), "OUT": str(tmp_path / "out")}
    arguments = [places.get(word, word) for word in verb]
    assert cli.run(["convert", *arguments, "--signature-key-file", str(key_file)]) == 65
    assert UNSIGNED in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
