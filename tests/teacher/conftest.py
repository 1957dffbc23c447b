"""What the teacher's tests share."""

import pytest

from tests.teacher.tiny import write_teacher


@pytest.fixture
def teacher_folder(tmp_path):
    return write_teacher(tmp_path / "tiny")
