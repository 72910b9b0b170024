"""XML of cameras: parsed without what makes XML dangerous, and read for the errors it carries at status 200."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, TreeBuilder, tostring
from xml.parsers import expat

from tasks.network.vapix._wire import Declined, Missing, Nonsense, said

MOST_DEPTH = 100
MOST_ELEMENTS = 50_000
"""A list of all the recordings that fit an answer has a third of it; half a million empty ones would keep us busy for seconds."""
SOAP = "http://www.w3.org/2003/05/soap-envelope"


class _Refused(Exception):
    """The document holds what we do not read; the text says what."""


def parse_xml(data: bytes, place: str = "The camera") -> Element:
    """Parse a document. Names are `{namespace}local`, as in ElementTree.

    Document types are refused, and with them entities of the document's own: nothing is fetched, nothing unfolds.

    Raises:
        Nonsense: It is no XML, or holds what we do not read.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    depth = elements = 0

    def qualified(name: str) -> str:
        return "{" + name if "}" in name else name

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MOST_DEPTH:
            raise _Refused("is nested too deeply")
        if elements > MOST_ELEMENTS:
            raise _Refused(f"has more than {MOST_ELEMENTS} elements")
        builder.start(qualified(name), {qualified(key): value for key, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(qualified(name))

    def doctype(*_: object) -> None:
        raise _Refused("declares a document type, which is not read")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    parser.buffer_text = True
    try:
        parser.Parse(data.lstrip(), True)
        return builder.close()
    except _Refused as reason:
        raise Nonsense(f"{place} sends XML that {reason}.") from None
    except (expat.ExpatError, AssertionError, ValueError, LookupError):
        raise Nonsense(f"{place} sends something that is no XML.") from None


def local(element: Element) -> str:
    """An element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def child(element: Element, *names: str) -> Element | None:
    """The first element down this path of local names; None when there is none."""
    for name in names:
        found = next((below for below in element if local(below) == name), None)
        if found is None:
            return None
        element = found
    return element


def children(element: Element, name: str) -> Iterator[Element]:
    """All direct children of this local name."""
    return (below for below in element if local(below) == name)


def anywhere(element: Element, name: str) -> Iterator[Element]:
    """All elements of this local name, at any depth."""
    return (below for below in element.iter() if local(below) == name)


def text_of(element: Element, *names: str) -> str | None:
    """The text at the end of a path of local names, without surrounding space; None when it is not there or empty."""
    return _text(child(element, *names))


def attribute(element: Element, name: str) -> str | None:
    """An attribute by its local name."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


# --- errors at status 200 --------------------------------------------------------------------------------------------


def raise_for_result(root: Element, place: str = "The camera") -> Element:
    """Return the document of a storage function (`result="OK"` on some element), or raise what it says.

    Raises:
        Declined: It says `result="ERROR"`.
    """
    for element in root.iter():
        result = attribute(element, "result")
        if result is not None and result.upper() not in {"OK", "SUCCESS"}:
            reason = attribute(element, "errormsg") or attribute(element, "description") or element.text or result
            raise Declined(f"{place} says no: {said(reason)}.", code=_number(attribute(element, "errorcode")))
    return root


def raise_for_general_error(root: Element, place: str = "The camera") -> Element:
    """Return the `Success` element of a `schemaversion` function, or raise what it says instead.

    Raises:
        Declined: It holds an error; `code` is its number.
        Nonsense: It holds neither.
    """
    for element in root.iter():
        if local(element) == "Success":
            return element
    for element in root.iter():
        if local(element).endswith("Error"):
            code = _text(next(anywhere(element, "ErrorCode"), None))
            reason = _text(next(anywhere(element, "ErrorDescription"), None)) or "it gives no reason"
            number = f"error {code}: " if code else ""
            raise Declined(f"{place} says no: {number}{said(reason)}.", code=_number(code))
    raise Nonsense(f"{place} answers with neither success nor an error.")


def _text(element: Element | None) -> str | None:
    return (element.text or "").strip() or None if element is not None else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.strip().isdigit() and len(text) < 9 else None


# --- SOAP ------------------------------------------------------------------------------------------------------------


def envelope(operation: Element) -> bytes:
    """Wrap an operation for sending."""
    root = Element(f"{{{SOAP}}}Envelope")
    body = Element(f"{{{SOAP}}}Body")
    body.append(operation)
    root.append(body)
    document: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def unwrap(data: bytes, place: str) -> Element:
    """Return what is in the body of an envelope.

    Raises:
        Missing, Declined: It is a fault; `fault` of the error is its name.
        Nonsense: There is no envelope, or nothing in it.
    """
    root = parse_xml(data, place)
    body = child(root, "Body")
    content = body[0] if local(root) == "Envelope" and body is not None and len(body) else None
    if content is None:
        raise Nonsense(f"{place} answers with something that is no SOAP envelope.")
    if local(content) == "Fault":
        raise _fault(content, place)
    return content


def _fault(fault: Element, place: str) -> Declined | Missing:
    detail = next((below for below in fault if local(below).lower() == "detail"), None)
    name = local(detail[0]) if detail is not None and len(detail) else ""
    reason = text_of(fault, "Reason", "Text") or text_of(fault, "faultstring") or ""
    words = ": ".join(part for part in (said(name, 80), said(reason)) if part) or "it gives no reason"
    message = f"{place} says no: {words}."
    return Missing(message, fault=name) if name.endswith("NotFoundFault") else Declined(message, fault=name)
