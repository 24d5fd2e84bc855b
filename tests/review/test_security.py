from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import MAX_BODY, House, is_loopback

HOUSE = House("127.0.0.1", 8765)
TRAVERSALS = [
    start + step * depth + target
    for start, step, target in [
        ("/static/", "../", "etc/passwd"),
        ("/static/", "..%2f", "etc%2fpasswd"),
        ("/static/", "%2e%2e/", "etc/passwd"),
        ("/static/", "%252e%252e%252f", "etc/passwd"),
        ("/static/", "..\\", "windows\\win.ini"),
        ("/static/", "..%5c", "windows%5cwin.ini"),
        ("/static/", "....//", "etc/passwd"),
        ("/static/", "%c0%ae%c0%ae/", "etc/passwd"),
        ("/crops/0/typical/", "../", "manifest.json"),
        ("/crops/", "..%2f", "manifest.json"),
        ("/tiles/0/image/0/0/", "../", "scenes.jsonl"),
        ("/thumbs/", "%2e%2e%2f", "radiometry.json"),
    ]
    for depth in (1, 3, 8)
] + [
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/file:%2f%2f%2fetc%2fpasswd",
    "/static/leaflet.js%00.png",
    "//etc/passwd",
    "/vsicurl/http://x/y",
]
INJECTIONS = [
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    '"><img src=x onerror=window.pwned=1>',
    "'><svg onload=window.pwned=1>",
    "<svg/onload=window.pwned=1>",
    "javascript:window.pwned=1",
    '" onmouseover="window.pwned=1',
    "' autofocus onfocus='window.pwned=1",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "${7*7}",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>",
    "<style>*{display:none}</style>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<!--",
    "]]>",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "<a href=javascript:window.pwned=1>x</a>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.pwned=1>",
    "<template><script>window.pwned=1</script></template>",
    "<object data=javascript:window.pwned=1>",
    "<details open ontoggle=window.pwned=1>",
    "a\u202ecod.exe",
    "`-window.pwned=1-`",
    "';window.pwned=1;'",
    "\\x3cscript\\x3ewindow.pwned=1",
    "<ScRiPt >window.pwned=1</sCrIpT>",
    "</title></textarea><script>window.pwned=1</script>",
    "' OR 1=1; DROP TABLE changes; --",
]


def client(desk: Desk, house: House = HOUSE, base: str = "http://127.0.0.1:8765") -> TestClient:
    return TestClient(create_app(desk, house), base_url=base, follow_redirects=False)


def test_there_are_as_many_payloads_as_promised() -> None:
    assert len(set(TRAVERSALS)) >= 40 and len(set(INJECTIONS)) >= 30


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_address_is_a_path(desk: Desk, path: str) -> None:
    answer = client(desk).get(path)
    assert answer.status_code in (400, 404)
    assert b"root:" not in answer.content and b"sha256" not in answer.content and b"run_id" not in answer.content


@pytest.mark.parametrize("name", INJECTIONS)
def test_names_are_text(desk: Desk, name: str) -> None:
    page = client(desk)
    answer = page.post("/api/classes", json={"action": "name", "classes": [2], "name": name, "seen": 0})
    if not name.isprintable():
        assert answer.status_code == 400
        return
    assert answer.status_code == 200
    for address in ("/classes", "/journal", "/classes?q=" + "cluster"):
        html = page.get(address).text
        assert name not in html or not set(name) & set("<>\"'&")
        assert "<script>window" not in html and "49" not in html.partition('id="class-2"')[2][:900].partition("crops")[0]
    assert page.get("/classes.json", params={"q": name[:200]}).json()["count"] == 1
    assert page.get("/classes.json").headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.nip.io:8765", "[::1", "", "a b:8765"]
)
def test_other_hosts_are_refused(desk: Desk, host: str) -> None:
    answer = client(desk).get("/classes.json", headers={"host": host})
    assert answer.status_code == 403 and b"cards" not in answer.content


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:8765", "[::1]:8765"])
def test_loopback_has_several_names(desk: Desk, host: str) -> None:
    assert client(desk).get("/state.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:8765"}, 403),
        ({"origin": "http://127.0.0.1:8766"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_changes_come_from_our_page_only(desk: Desk, headers: dict[str, str], status: int) -> None:
    body = b'{"action": "name", "classes": [2], "name": "water", "seen": 0}'
    answer = client(desk).post("/api/classes", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status and desk.now().version == (1 if status == 200 else 0)


def test_other_methods_and_large_bodies_are_refused(desk: Desk) -> None:
    page = client(desk)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert page.request(method, "/api/classes").status_code == 405
    large = b'{"name": "' + b"x" * MAX_BODY + b'"}'
    json = {"content-type": "application/json"}
    assert page.post("/api/classes", content=large, headers=json).status_code == 413
    assert page.post("/api/classes", content=iter([large]), headers=json).status_code == 413  # no length given
    assert page.get("/classes?q=" + "x" * 9000).status_code == 414
    assert desk.now().version == 0


def test_no_script_runs_but_ours(desk: Desk) -> None:
    page = client(desk)
    for address in ("/classes", "/journal", "/nothing", "/static/page.js", "/classes.json"):
        answer = page.get(address, headers={"accept": "text/html"})
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"
        if answer.headers["content-type"].startswith("text/html"):
            assert " style=" not in answer.text and " on" + "click=" not in answer.text and "<script>" not in answer.text
            assert "http://" not in answer.text.replace("http://www.w3.org", "")


def test_a_token_is_needed_beyond_loopback(desk: Desk) -> None:
    house = House.at("0.0.0.0", 8765)
    assert len(house.token) >= 30 and house.token not in repr(house) and house.token in house.url
    base = "http://192.0.2.7:8765"
    page = client(desk, house, base)
    assert page.get("/classes").status_code == 403
    assert page.get("/classes?token=wrong").status_code == 403
    assert page.get("/state.json", headers={"cookie": b"terralabel=\xff"}).status_code == 403
    welcome = page.get(f"/classes?q=a&token={house.token}")
    assert welcome.status_code == 303 and welcome.headers["location"] == "/classes?q=a"
    assert "HttpOnly" in welcome.headers["set-cookie"] and "SameSite=Strict" in welcome.headers["set-cookie"]
    page.cookies.set("terralabel", house.token)
    assert page.get("/classes").status_code == 200
    assert page.get("/classes", headers={"host": "evil.example:8765"}).status_code == 403
    assert House.at("127.0.0.1", 1).token == "" == House.at("localhost", 1).token


@pytest.mark.parametrize(
    "host, yes",
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("192.0.2.1", False), ("a.b", False)],
)
def test_what_is_loopback(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes


def test_reading_changes_nothing_in_the_run(desk: Desk) -> None:
    page = client(desk)

    def files() -> set[str]:
        return {str(p.relative_to(desk.run.path)) for p in Path(desk.run.path).rglob("*") if "review" not in p.parts}

    before = files()
    for address in ("/classes", "/journal", "/state.json", "/crops/0/typical/0.jpg"):
        assert page.get(address).status_code == 200
    assert files() == before
