"""HTML and SVG in which nothing can be left unescaped: only `element` and `verbatim` make what is taken as it is."""

import html

_VOID = frozenset(("img", "meta", "br"))


class Markup(str):
    """Text that is HTML already."""


def element(name: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element; children and attributes that are no `Markup` are escaped.

    Args:
        name: of the element.
        children: in order.
        attributes: `class_` is written class, and other underscores are hyphens; None and False leave one out, and True
            writes its name alone.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*parts: str) -> Markup:
    """Side by side."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def verbatim(text: str) -> Markup:
    """For files of this package alone."""
    return Markup(text)


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
