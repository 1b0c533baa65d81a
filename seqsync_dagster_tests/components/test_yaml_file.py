"""The reader of YAML files that is lent to Dagster reads them as Dagster's own does."""

from __future__ import annotations

import pytest
import yaml
from dagster_shared.yaml_utils import parse_yamls_with_source_position as read_by_dagster

from seqsync_dagster import SyncSequence
from seqsync_dagster.components.private import decl
from seqsync_dagster.components.yaml_file import LOADER, read_documents, read_for_dagster

FILES = {
    "a sequence": "attributes:\n  syncs:\n    - name: s0\n      fields: {Name: n, P: {parent: p, from: [a, b]}}\n",
    "several documents": "a: 1\n---\nb: 2\n---\n",
    "nothing": "# only this\n",
    "an empty value": "a:\nb: ~\n",
    "keys of other types": "1: a\ntrue: b\n1.5: c\non: d\n",
    "a name twice": "a: 1\na: {b: 2}\n",
    "blocks": "a: |\n  x\n  y\n\nb: >-\n  folded\n  text\nc: one\n  two\n",
    "quotes": "'a b': 'q\n  r'\n\"c\": \"\\u00e9\"\n",
    "dates stay text": "a: 2020-01-01\nb: 2020-01-01T00:00:00Z\n",
    "numbers": "a: 017\nb: 1_000\nc: .inf\nd: 1e3\ne: 0x1f\nf: 1:30\n",
    "other alphabets": "a: é漢字\n漢: {b: 'ü\U0001f600', c: d}\n",
    "line ends of Windows": "a: 1\r\nb:\r\n  - x\r\n  - y\r\n",
    "an alias": "a: &b [1, {c: d}]\ne: *b\n",
    "a merge key": "base: &b {x: 1, y: [1, 2]}\nuse:\n  <<: *b\n  x: 3\n",
    "a merge key in flow": "a: &b {x: 1, z: {w: 1}}\ne: {x: 2, <<: *b}\n",
    "several to merge": "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: [*b, *a], z: 3}\nd: [{<<: *b}]\n",
    "a merge key that is quoted": "a: {'<<': 1}\n",
    "tags": "a: !!str 1\nb: !!int '3'\n",
}
MISTAKES = {
    "an open list": "a: [1\nb: 2\n",
    "a tab": "a:\n\tb: 1\n",
    "two colons": "a: b: c\n",
    "an unknown tag": "a: !foo bar\n",
    "part of itself": "a: &x [*x]\n",
    "nothing to merge": "a: {<<: 1}\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())
def test_values_and_places_are_those_that_dagster_reads(text: str) -> None:
    assert read_for_dagster(text, "defs.yaml") == read_by_dagster(text, "defs.yaml")


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_in_the_words_of_dagster(text: str) -> None:
    with pytest.raises(yaml.YAMLError) as theirs:
        read_by_dagster(text, "defs.yaml")
    with pytest.raises(yaml.YAMLError) as ours:
        read_for_dagster(text, "defs.yaml")
    assert str(ours.value) == str(theirs.value)


def test_what_a_mapping_says_beside_what_is_merged_into_it_is_not_said_twice() -> None:
    [merged] = read_documents("a: &b {x: 1}\nc:\n  <<: *b\n  x: 2\n", "defs.yaml")
    assert (merged.value["c"], merged.repeated) == ({"x": 2}, ())
    [twice] = read_documents("a: &b {x: 1}\nc:\n  <<: *b\n  x: 2\n  x: 3\n", "defs.yaml")
    assert twice.repeated == (("x", (5, 3)),)


def test_dagster_reads_with_it_where_it_is_faster() -> None:
    assert SyncSequence is not None
    assert (decl.parse_yamls_with_source_position is read_for_dagster) == (LOADER is not yaml.SafeLoader)
