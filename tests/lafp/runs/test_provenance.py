import subprocess

import pytest

from lafp.runs import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, whose code is what runs."""
    for file in ("lafp/code.py", "docs/results.md"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("committed")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "lafp/code.py"))
    monkeypatch.delenv("LAFP_GIT_REVISION", raising=False)
    return tmp_path


def test_changed_code_makes_a_revision_dirty_and_a_written_page_does_not(checkout):
    clean = provenance.git_revision()
    assert clean and len(clean) == 40
    (checkout / "docs/results.md").write_text("what a study found")
    assert provenance.git_revision() == clean
    (checkout / "lafp/code.py").write_text("changed")
    assert provenance.git_revision() == clean + "+dirty"


def test_what_a_submitted_job_is_told_counts(checkout, monkeypatch):
    monkeypatch.setenv("LAFP_GIT_REVISION", "abc")
    assert provenance.git_revision() == "abc"
