"""A subset of SOQL, compiled to one SQL statement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from seqsync_dagster.emulator.errors import ApiError
from seqsync_dagster.emulator.ids import MalformedIdError, WrongTypeError
from seqsync_dagster.emulator.pointing import places, pointed_at, read_id
from seqsync_dagster.emulator.schema import DECIMAL_TYPES, NAME, OBJECTS, TEXT_TYPES, Field, SObject, find_object
from seqsync_dagster.emulator.store import Store
from seqsync_dagster.emulator.values import MistypedError, RefusedError, cleaner

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^'\\]|\\.)*')
    |(?P<moment>\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:?\d\d))?)
    |(?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<word>(?:LAST|NEXT)_N_DAYS:\d+|[A-Za-z_][\w.]*)
    |(?P<mark><=|>=|!=|<>|[=<>(),]))""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_DAYS = re.compile(r"(today|yesterday|tomorrow|(last|next)_n_days:(\d{1,5}))", re.IGNORECASE)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_KEYWORDS = {"where", "order", "limit", "offset", "from", "and", "or"}


@dataclass(slots=True)
class Query:
    """A compiled query: `select` yields Id, then a value per path; `paths` says where each goes."""

    obj: SObject
    text: str
    sql: str = ""
    params: list[Any] = field(default_factory=list)
    paths: list[tuple[Field | None, SObject, Field]] = field(default_factory=list)
    counting: str = ""
    total: int = 0
    everything: bool = False

    def count(self, store: Store) -> int:
        row = store.reader().execute(f"SELECT count(*) FROM ({self.sql})", self.params).fetchone()
        return int(row[0])

    def page(self, store: Store, version: str, size: int, offset: int) -> list[dict[str, Any]]:
        rows = store.reader().execute(f"SELECT * FROM ({self.sql}) LIMIT ? OFFSET ?", (*self.params, size, offset))
        return [self._record(store, version, row) for row in rows]

    def rows(self, store: Store) -> Iterator[dict[str, Any]]:
        """Every record, by the paths it was asked with, values as they are on the wire."""
        for row in store.reader().execute(self.sql, self.params):
            values, found = iter(row[1:]), {}
            for via, owner, column in self.paths:
                name = f"{via.relationship}.{column.name}" if via else column.name
                found[name] = _wire(store, via, owner, column, next(values))
                _ = next(values) if via else None
            yield found

    def _record(self, store: Store, version: str, row: tuple[Any, ...]) -> dict[str, Any]:
        record: dict[str, Any] = {"attributes": _attributes(store, version, self.obj, row[0])}
        values = iter(row[1:])
        for via, owner, column in self.paths:
            value = _wire(store, via, owner, column, next(values))
            if via is None:
                record[column.name] = value
                continue
            parent = next(values)
            if parent is None:
                record[via.relationship] = None
            else:
                shown = _attributes(store, version, *pointed_at(via, parent)) | {"type": owner.name}
                record.setdefault(via.relationship, {"attributes": shown})[column.name] = value
        return record


def _wire(store: Store, via: Field | None, owner: SObject, column: Field, value: Any) -> Any:
    # A Name has the id of the record that it stands for.
    return store.wire(owner, via if via and owner is NAME and column.type == "id" else column, value)


def _records(lookup: Field) -> str:
    """The records that a lookup may hold; of a polymorphic one each as far as it is like the others."""
    if not lookup.others:
        return f'"{lookup.refers}"'
    parts = []
    for obj, first in places(lookup):
        columns = [f'"Id" + {first} AS "Id"', f"'{obj.name}' AS " + '"Type"']
        others = [name for name in NAME.fields if name not in ("Id", "Type")]
        columns += [f'"{name}"' if name in obj.fields else f'NULL AS "{name}"' for name in others]
        parts.append(f'SELECT {", ".join(columns)} FROM "{obj.name}"')
    return f"({' UNION ALL '.join(parts)})"


def _attributes(store: Store, version: str, obj: SObject, number: int) -> dict[str, str]:
    return {"type": obj.name, "url": f"/services/data/{version}/sobjects/{obj.name}/{store.id_of(obj, number)}"}


def compile_query(store: Store, text: str, everything: bool = False) -> Query:
    """The query a SOQL text asks for, of deleted records too if of everything; an ApiError if it is wrong."""
    return _Compiler(store, text).query(everything)


class _Compiler:
    def __init__(self, store: Store, text: str) -> None:
        self.store, self.text, self.at = store, text, 0
        self.tokens: list[tuple[str, str]] = []
        self.joins: dict[str, str] = {}
        self.params: list[Any] = []
        end = 0
        while end < len(text.rstrip()):
            match = _TOKEN.match(text, end)
            if match is None or match.lastgroup is None:
                raise self._malformed(f"unexpected token: '{text[end:].split()[0]}'")
            self.tokens.append((match.lastgroup, match.group(match.lastgroup)))
            end = match.end()

    def _malformed(self, what: str) -> ApiError:
        return ApiError(400, "MALFORMED_QUERY", what)

    def _peek(self) -> str:
        return self.tokens[self.at][1].lower() if self.at < len(self.tokens) else ""

    def _next(self) -> tuple[str, str]:
        if self.at >= len(self.tokens):
            raise self._malformed("unexpected token: '<EOF>'")
        self.at += 1
        return self.tokens[self.at - 1]

    def _take(self, *words: str) -> bool:
        ahead = [value.lower() for _, value in self.tokens[self.at : self.at + len(words)]]
        if ahead != list(words):
            return False
        self.at += len(words)
        return True

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise self._malformed(f"unexpected token: '{self._peek() or '<EOF>'}', expecting '{word}'")

    def query(self, everything: bool) -> Query:
        self._expect("select")
        selected: list[str] = []
        while not selected or self._take(","):
            name = self._next()[1]
            if name.lower() == "count" and self._take("("):
                name = "count()" if self._take(")") else f"count({self._next()[1]})"
                if name != "count()":
                    self._expect(")")
            selected.append(name)
        self._expect("from")
        name = self._next()[1]
        obj = find_object(name)
        if obj is None:
            raise ApiError(
                400, "INVALID_TYPE",
                f"\n{self.text}\n{' ' * self.text.find(name)}^\nERROR at Row:1:Column:{self.text.find(name) + 1}\n"
                f"sObject type '{name}' is not supported. If you are attempting to use a custom object, be sure to "
                "append the '__c' after the entity name. Please reference your WSDL or the describe call for the "
                "appropriate names.",
            )  # fmt: skip
        self.obj = obj
        query = Query(obj, self.text, everything=everything)
        columns = ['t."Id"']
        if selected[0].startswith("count("):
            query.counting = selected[0]
        else:
            for each in selected:
                sql, via, owner, column = self._path(each)
                query.paths.append((via, owner, column))
                columns += [sql] if via is None else [sql, f'{self.joins[via.name.lower()]}."Id"']
        where = self._or() if self._take("where") else "1"
        order = self._order() if self._take("order", "by") else []
        limit = self._number() if self._take("limit") else -1
        offset = self._number() if self._take("offset") else 0
        if self.at < len(self.tokens):
            raise self._malformed(f"unexpected token: '{self.tokens[self.at][1]}'")
        joins = "".join(
            f' LEFT JOIN {_records(f)} {alias} ON {alias}."Id" = t."{f.name}"'
            for f, alias in ((self._known(name), alias) for name, alias in self.joins.items())
        )
        # The subquery is flattened or not as SQLite sees fit, so its columns need names of their own.
        named = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(columns))
        ordered = ", ".join([*order, 't."Id"'])
        living = "1" if everything else 't."IsDeleted" = 0'
        query.sql = f'SELECT {named} FROM "{obj.name}" t{joins} WHERE {living} AND ({where}) ORDER BY {ordered}'
        if limit >= 0 or offset:
            query.sql += f" LIMIT {limit} OFFSET {offset}"
        query.params = self.params
        return query

    def _known(self, name: str) -> Field:
        found = self.obj.find(name)
        assert found is not None
        return found

    def _path(self, name: str) -> tuple[str, Field | None, SObject, Field]:
        relationship, dot, last = name.rpartition(".")
        if relationship.lower() == self.obj.name.lower() and not self.obj.lookup(relationship):
            dot = ""
        via = self.obj.lookup(relationship) if dot else None
        if dot and via is None:
            raise ApiError(400, "INVALID_FIELD", f"Didn't understand relationship '{relationship}' in field path.")
        owner = self.obj if via is None else NAME if via.others else OBJECTS[via.refers]
        column = owner.find(last)
        if column is None:
            raise ApiError(
                400, "INVALID_FIELD",
                f"\n{self.text}\n^\nERROR at Row:1:Column:{self.text.find(name) + 1}\nNo such column '{last}' on "
                f"entity '{owner.name}'. If you are attempting to use a custom field, be sure to append the '__c' "
                "after the custom field name. Please reference your WSDL or the describe call for the appropriate "
                "names.",
            )  # fmt: skip
        alias = self.joins.setdefault(via.name.lower(), f"p{len(self.joins)}") if via else "t"
        return f'{alias}."{column.name}"', via, owner, column

    def _number(self) -> int:
        kind, value = self._next()
        if kind != "number" or not value.isdigit():
            raise self._malformed(f"unexpected token: '{value}'")
        return int(value)

    def _order(self) -> list[str]:
        terms: list[str] = []
        while not terms or self._take(","):
            sql, _, _, column = self._path(self._next()[1])
            sql = f"CAST({sql} AS REAL)" if column.type in DECIMAL_TYPES else sql
            down = self._take("desc") or (self._take("asc") and False)
            last = self._take("nulls", "last") or (self._take("nulls", "first") and False)
            terms.append(f"{sql} {'DESC' if down else 'ASC'} NULLS {'LAST' if last else 'FIRST'}")
        return terms

    def _or(self) -> str:
        terms = [self._and()]
        while self._take("or"):
            terms.append(self._and())
        return " OR ".join(terms)

    def _and(self) -> str:
        terms = [self._not()]
        while self._take("and"):
            terms.append(self._not())
        return " AND ".join(terms)

    def _not(self) -> str:
        if self._take("not"):
            return f"NOT coalesce({self._not()}, 0)"
        if self._take("("):
            inner = self._or()
            self._expect(")")
            return f"({inner})"
        return self._comparison()

    def _comparison(self) -> str:
        kind, name = self._next()
        if kind != "word" or name.lower() in _KEYWORDS:
            raise self._malformed(f"unexpected token: '{name}'")
        sql, via, owner, column = self._path(name)
        if via and owner is NAME and column.type == "id":
            column = via
        if column.type in DECIMAL_TYPES:
            sql = f"CAST({sql} AS REAL)"
        if self._take("like"):
            self.params.append(self._value(owner, column, like=True))
            return f"{sql} LIKE ? ESCAPE '\\'"
        if self._take("in"):
            return f"{sql} IN ({self._list(owner, column)})"
        if self._take("not", "in"):
            return f"({sql} IS NULL OR {sql} NOT IN ({self._list(owner, column)}))"
        operator = self._next()[1]
        if operator not in ("=", "!=", "<>", "<", ">", "<=", ">="):
            raise self._malformed(f"unexpected token: '{operator}'")
        days = _DAYS.fullmatch(self._peek())
        if days and column.type in ("date", "datetime"):
            self.at += 1
            return self._in_days(sql, operator, days, column.type == "datetime")
        value = self._value(owner, column)
        # IS, unlike =, is never null, which is how SOQL compares; an index serves it all the same.
        operator = {"=": "IS", "!=": "IS NOT", "<>": "IS NOT"}.get(operator, operator)
        self.params.append(value)
        return f"{sql} {operator} ?"

    def _in_days(self, sql: str, operator: str, days: re.Match[str], moments: bool) -> str:
        """A comparison with a date literal, which is a range ("Date Formats and Date Literals" of the SOQL guide)."""
        first, count = {"today": (0, 1), "yesterday": (-1, 1), "tomorrow": (1, 1)}.get(days[1].lower(), (0, 0))
        if days[2]:
            first, count = (1 - int(days[3]), int(days[3])) if days[2].lower() == "last" else (1, int(days[3]))
        today = datetime.now(UTC).date()
        begins, ends = (str(today + timedelta(days=n)) + "T00:00:00" * moments for n in (first, first + count))
        conditions = {
            "=": f"({sql} >= ? AND {sql} < ?)", "<": f"({sql} < ? AND ?)", ">=": f"({sql} >= ? AND ?)",
            "<=": f"(? AND {sql} < ?)", ">": f"(? AND {sql} >= ?)",
        }  # fmt: skip
        if operator in ("!=", "<>"):
            self.params += [begins, ends]
            return f"NOT coalesce({conditions['=']}, 0)"
        self.params += [1 if operator in ("<=", ">") else begins, 1 if operator in ("<", ">=") else ends]
        return conditions[operator]

    def _list(self, owner: SObject, column: Field) -> str:
        self._expect("(")
        count = 0
        while not count or self._take(","):
            self.params.append(self._value(owner, column))
            count += 1
        self._expect(")")
        return ", ".join("?" * count)

    def _value(self, owner: SObject, column: Field, like: bool = False) -> Any:
        kind, raw = self._next()
        if kind == "word" and raw.lower() == "null":
            return None
        quoted = column.type in TEXT_TYPES or column.type in ("id", "reference")
        wanted = {"boolean": "word", "date": "moment", "datetime": "moment"}.get(column.type, "number")
        if kind != ("string" if quoted else wanted):
            enclosed = "be enclosed in quotes" if quoted else f"be of type {column.type} and not enclosed in quotes"
            message = f"{self.text}\nvalue of filter criterion for field '{column.name}' must {enclosed}"
            raise ApiError(400, "INVALID_FIELD", message)
        if quoted:
            # LIKE reads escaped wildcards and backslashes itself.
            escaped = r"\\([^_%\\])" if like else r"\\(.)"
            raw = re.sub(escaped, lambda m: _ESCAPES.get(m[1].lower(), m[1]), raw[1:-1], flags=re.DOTALL)
        if column.type in TEXT_TYPES:
            return raw
        try:
            if quoted:
                ids = self.store.ids
                return read_id(ids, column, raw) if column.refers else ids.decode(raw, owner.prefix)
            return float(raw) if kind == "number" else cleaner(column, self.store.ids)(raw)
        except WrongTypeError:
            return -1
        except (MalformedIdError, MistypedError, RefusedError):
            raise ApiError(400, "INVALID_QUERY_FILTER_OPERATOR", f"invalid {column.type} field: {raw}") from None
