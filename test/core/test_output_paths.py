# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a command will write: folders are made, what cannot be written is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolox_trt.core.errors import ConfigurationError
from yolox_trt.core.output_paths import check_own, prepare_outputs


def test_missing_folders_are_made_and_the_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.json"
    prepare_outputs(None, "", path)
    assert path.parent.is_dir() and not path.exists()
    path.write_text("old")
    prepare_outputs(str(path))
    assert path.read_text() == "old"


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"is a folder; expected a file.*fix: "):
        prepare_outputs(tmp_path)
    with pytest.raises(ConfigurationError, match=r"cannot be written.*fix: "):
        prepare_outputs(tmp_path / "file" / "below")
    with pytest.raises(ConfigurationError, match=r"'/proc/file' cannot be written.*fix: "):
        prepare_outputs("/proc/file")  # which root has the permission to write
    os.mkfifo(tmp_path / "pipe")  # as /dev/null would be, it would be replaced by a file
    with pytest.raises(ConfigurationError, match=r"no plain file; expected a file to write; fix: "):
        prepare_outputs(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        prepare_outputs(tmp_path / "file")


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "out", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    check_own(folder)
    check_own(link)
    if os.geteuid() == 0:
        os.chown(link, 4242, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(ConfigurationError, match=r"link' of user .* or of root; fix: give another"):
        check_own(link)
    if os.getuid() == 0:
        os.chown(folder, 4242, -1)
    with pytest.raises(ConfigurationError, match="out' of user"):
        check_own(folder)
