"""What a person sees in a browser: the objects, and their records."""

from __future__ import annotations

from html import escape
from typing import Any

from seqsync_dagster.emulator.schema import OBJECTS, Field, SObject
from seqsync_dagster.emulator.store import Store

PAGE_SIZE = 100
_HIDDEN = {"IsDeleted", "SystemModstamp"}
_CSS = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #1b1f24; background: #fff }
h1 { font-size: 1.3rem } a { color: #0b5cad; text-decoration: none } a:hover { text-decoration: underline }
.wide { overflow-x: auto } table { border-collapse: collapse }
th, td { border-bottom: 1px solid #e3e6ea; padding: .35rem .7rem; text-align: left; vertical-align: top;
  white-space: pre-wrap; max-width: 28rem; overflow-wrap: break-word }
th { background: #f6f8fa; white-space: nowrap } td.n { text-align: right; font-variant-numeric: tabular-nums }
nav { margin: 1rem 0 } small { color: #636c76 }
"""


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_CSS}</style></head><body>{body}</body></html>"
    )


def overview(store: Store) -> str:
    rows = "".join(
        f'<tr><td><a href="/records/{o.name}">{escape(o.label)}</a></td><td>{o.name}</td>'
        f'<td class="n">{store.count(o):,}</td></tr>'
        for o in OBJECTS.values()
    )
    return _page(
        "Emulated Salesforce",
        f"<h1>Emulated Salesforce</h1><p>Organization <code>{store.org_id}</code></p>"
        f"<table><tr><th>Object</th><th>API name</th><th>Records</th></tr>{rows}</table>",
    )


def _cell(field: Field, value: Any) -> str:
    if value is None:
        return "<td></td>"
    text = escape(str(value))
    if field.type == "boolean":
        text = "yes" if value else "no"
    if field.refers:
        place = f"/{text}" if field.others else f"/records/{field.refers}?id={text}"
        text = f'<a href="{place}">{text}</a>'
    return f'<td class="n">{text}</td>' if field.type in ("int", "double", "currency") else f"<td>{text}</td>"


def records(store: Store, obj: SObject, number: int, only: int | None = None) -> str:
    """One page of an object's records, or the record `only`."""
    fields = [f for f in obj.fields.values() if f.name not in _HIDDEN]
    shown = store.records(obj, PAGE_SIZE, (number - 1) * PAGE_SIZE) if only is None else store.records(obj, only=only)
    head = "".join(f'<th title="{escape(f.name)}">{escape(f.label)}</th>' for f in fields)
    body = "".join("<tr>" + "".join(_cell(f, record[f.name]) for f in fields) + "</tr>" for record in shown)
    total = store.count(obj)
    pages = max(1, -(-total // PAGE_SIZE))
    before = f'<a href="?page={number - 1}">previous</a> ' if number > 1 else ""
    after = f' <a href="?page={number + 1}">next</a>' if number < pages else ""
    place = f"{before}page {number} of {pages}{after}" if only is None else f'<a href="/records/{obj.name}">all</a>'
    return _page(
        f"{obj.label} records",
        f'<p><a href="/">Objects</a></p><h1>{escape(obj.label)} <small>{total:,} records</small></h1>'
        f'<nav>{place}</nav><div class="wide"><table><tr>{head}</tr>{body}</table></div>',
    )
