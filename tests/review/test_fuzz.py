"""Every route of the server with values made from its own schema, fitting and not: no answer is a server's fault."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from terralabel.recipes.run import Run
from terralabel.recipes.survey import survey_clusters
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House

ODD_TEXT = [
    "",
    "a",
    "water",
    "cluster 1",
    "\x00",
    "\ud800",
    "é" * 50,
    "x" * 3000,
    "<b>",
    "%00",
    "../..",
    "\u202e",
    "0",
    "-1",
    "1e400",
    "NaN",
    "null",
]
ODD_NUMBERS = [0, 1, 2, 3, 5, 7, 64, 65, 255, -1, 2**31, 2**53, 2**64, 10**40, 1.5, -0.0, 1e308]
ODD = [None, True, False, [], {}, [[]], {"a": 1}, *ODD_TEXT, *ODD_NUMBERS]
EXAMPLES = {"get": 20, "post": 120}


def made(schema: dict[str, Any], root: dict[str, Any], dice: random.Random, depth: int = 0) -> Any:
    """A value that mostly fits a JSON schema."""
    if dice.random() < 0.05 or depth > 4:
        return dice.choice(ODD)
    if "$ref" in schema:
        schema = root["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return made(dice.choice(schema["anyOf"]), root, dice, depth + 1)
    if "enum" in schema:
        return dice.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        keys = [k for k in schema.get("properties", {}) if k in schema.get("required", []) or dice.random() < 0.7]
        return {key: made(schema["properties"][key], root, dice, depth + 1) for key in keys}
    if kind == "array":
        return [made(schema.get("items", {}), root, dice, depth + 1) for _ in range(dice.choice([0, 1, 1, 1, 2, 4]))]
    if kind == "integer":
        return dice.choice([0, 1, 2, 3, 4, 5]) if dice.random() < 0.8 else dice.choice(ODD_NUMBERS)
    if kind == "number":
        return dice.choice([0.0, 1.0, 12.5, 80.0, 159.5, *ODD_NUMBERS])
    if kind == "boolean":
        return dice.random() < 0.5
    if kind == "null":
        return None
    return dice.choice(["name", "merge", "color", "#12ab34", "accept"]) if dice.random() < 0.7 else dice.choice(ODD_TEXT)


@pytest.fixture
def desk(judged: Run) -> Iterator[Desk]:
    made = Desk(judged)
    made.survey = survey_clusters(judged)
    yield made
    made.close()


@pytest.fixture
def guard(desk: Desk) -> Any:
    return create_app(desk, House("127.0.0.1", 8765))


def test_no_answer_is_a_5xx(guard: Any, desk: Desk) -> None:
    schema, dice = guard.api.openapi(), random.Random(5)
    page = TestClient(guard, base_url="http://127.0.0.1:8765", follow_redirects=False, raise_server_exceptions=False)
    seen: dict[int, int] = {}
    for path, methods in sorted(schema["paths"].items()):
        for method, about in methods.items():
            if path == "/api/write":
                continue
            for _ in range(EXAMPLES[method]):
                address, query = path, {}
                for item in about.get("parameters", []):
                    value = made(item["schema"], schema, dice)
                    text = str(value).encode("utf-8", "replace").decode()
                    if item["in"] == "path":
                        address = address.replace(
                            "{" + item["name"] + "}", text.replace("/", "%2f").replace("?", "").replace("#", "")
                        )
                    elif dice.random() < 0.8:
                        query[item["name"]] = text
                content = None
                if "requestBody" in about:
                    body = made(about["requestBody"]["content"]["application/json"]["schema"], schema, dice)
                    content = json.dumps(body)
                headers = {"content-type": "application/json", "accept": dice.choice(["text/html", "*/*"])}
                address = "".join(c for c in address if c.isprintable())
                answer = page.request(method.upper(), address, params=query, content=content, headers=headers)
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                assert answer.status_code < 500, (method, address, query, content, answer.text)
    assert seen.get(200, 0) > 50 and seen.get(400, 0) > 20 and seen.get(404, 0) > 5, seen
    assert desk.now().version > 0, "some changes must have been made, or nothing was tried"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 30000, b'{"seen": 1e999}', b'{"seen": NaN}', b'"' + b"a" * 100]
)
def test_what_is_no_json_is_refused(guard: Any, content: bytes) -> None:
    page = TestClient(guard, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
    for path in ("/api/classes", "/api/undo"):
        answer = page.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]
