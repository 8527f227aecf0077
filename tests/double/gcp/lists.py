"""Lists: filters in Google's two dialects (the common terms of them), pages."""

import re

from common.server import Refusal

TERM = re.compile(
    r"""\s*\(?\s*(?P<not>-|NOT\s+)?(?P<field>[\w.\[\]-]+)\s*(?P<op>!=|=~|=|:|\beq\b|\bne\b)\s*\(?\s*(?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s()]+)\s*\)*\s*(?P<and>AND\b)?"""
)


def page(items, query, most=500):
    """Those of a list that were asked for, and the token of the next page."""
    chosen = [item for item in items if matches(item, query.get("filter", ""))]
    if query.get("orderBy") == "creationTimestamp desc":
        chosen.sort(key=lambda item: item.get("creationTimestamp", ""), reverse=True)
    try:
        start, count = int(query.get("pageToken") or 0), int(query.get("maxResults") or most)
    except ValueError as error:
        raise Refusal(400, "Invalid value for field 'pageToken'", "invalid") from error
    part = chosen[start : start + count]
    return part, (str(start + count) if start + count < len(chosen) else None)


def matches(item, text):
    """Whether an item is as a filter says: terms that all must hold."""
    at = 0
    while text[at:].strip(" ()"):
        term = TERM.match(text, at)
        if not term:
            raise Refusal(400, f"Invalid value for field 'filter': '{text}'. Invalid list filter expression.", "invalid")
        if holds(item, term) == bool(term["not"]):
            return False
        at = term.end()
    return True


def holds(item, term):
    wanted, found = term["value"], field(item, term["field"])
    if wanted[0] in "\"'":
        wanted = re.sub(r"\\(.)", r"\1", wanted[1:-1])
    operator = term["op"]
    if operator in ("eq", "ne"):
        same = found is not None and re.fullmatch(wanted, plain(found)) is not None
    elif operator == "=~":
        same = found is not None and re.search(wanted, plain(found)) is not None
    elif operator == ":":
        same = found is not None and (wanted == "*" or wanted.lower().strip("*") in plain(found).lower())
    else:
        same = found is not None and plain(found) == wanted
    return same != (operator in ("ne", "!="))


def field(item, path):
    for name in path.split("."):
        if not isinstance(item, dict) or name not in item:
            return None
        item = item[name]
    return item


def plain(value):
    return str(value).lower() if isinstance(value, bool) else str(value)
