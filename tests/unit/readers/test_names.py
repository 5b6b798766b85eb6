"""Names kept on disk: a set, whatever the strings."""

from __future__ import annotations

from rag_diffusion.readers.names import NameTable


def test_a_table_of_names_is_a_sorted_set() -> None:
    names = ["b", "a", "猫", "é", "e\u0301", "", "a\0b", "caf\udce9", "\ud800", "a"]
    with NameTable() as table:
        assert [table.add(name) for name in names] == [True] * 9 + [False]
        assert list(table) == sorted(set(names))
        assert len(table) == 9
        assert all(name in table for name in names)
        assert "c" not in table
        assert "A" not in table
