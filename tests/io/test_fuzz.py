from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import KINDS, fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_by_name(kind: str, tmp_path: Path):
    _, crashes = fuzz(kind, 12, tmp_path)
    assert crashes == []
