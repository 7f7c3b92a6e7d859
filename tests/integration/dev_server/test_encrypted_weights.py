"""External weights that are encrypted to public keys of age."""

import sys

import httpx
import pytest


@pytest.fixture
def run(api):
    """A session and its model."""
    session = api.session()
    return session, api.model(session)


def test_each_recipient_reads_the_files_of_a_save_and_of_its_copy(api, run):
    """Each file has the suffix .age; the others cannot read it; each download has the same bytes."""
    pyrage = pytest.importorskip("pyrage")
    session, model = run
    readers = [pyrage.x25519.Identity.generate() for _ in range(2)]
    keys = [str(reader.to_public()) for reader in readers]
    plain = api.do("save_weights_external", model_id=model, seq_id=1, path="plain")
    saved = api.do("save_weights_external", model_id=model, seq_id=2, path="export", age_encryption_recipients=keys)
    copied = api.ok("copy_weights", source_path=saved["path"], session_id=session, model_seq_id=5)["tinker_path"]

    expected, found = files(api, plain["path"]), files(api, saved["path"])

    assert found.keys() == {f"{name}.age" for name in expected}
    assert saved["size_bytes"] == sum(map(len, found.values())) > plain["size_bytes"]
    assert files(api, saved["path"]) == files(api, copied) == found
    for name, content in expected.items():
        for reader in readers:
            assert pyrage.decrypt(found[f"{name}.age"], [reader]) == content
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(found[f"{name}.age"], [pyrage.x25519.Identity.generate()])


def files(api, path):
    """The files behind the signed URLs of a checkpoint."""
    run_id, _, name = path.removeprefix("tinker://").partition("/external_weights/")
    place = f"training_runs/{run_id}/checkpoints/external_weights/{name}/external_weights_urls"
    urls = api.http.get(place).json()["urls"]
    return {file: httpx.get(url, trust_env=False).content for file, url in urls.items()}


@pytest.mark.parametrize("missing", [False, True])
def test_a_save_that_cannot_be_encrypted_is_refused_and_not_saved(api, run, monkeypatch, *, missing):
    """A text that is no key, or no package to encrypt with; not its content is shown but its place."""
    message = "place 1 is not a public key of age"
    if missing:
        monkeypatch.setitem(sys.modules, "pyrage", None)
        message = "package pyrage, which is not installed"
    else:
        pytest.importorskip("pyrage")
    keys = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "AGE-SECRET-KEY-1X"]

    refused = api.call(
        "save_weights_external", model_id=run[1], seq_id=1, path="export", age_encryption_recipients=keys
    )

    assert refused.status_code == 422
    assert message in refused.text
    assert "SECRET" not in refused.text
    place = f"training_runs/{run[1]}/checkpoints/external_weights/export/external_weights_urls"
    assert api.http.get(place).status_code == 404
