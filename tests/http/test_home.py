"""The page at ``/`` and its files, as a browser is given them; ``tests/page`` uses it."""

import re
from pathlib import Path

import httpx
import pytest

from service.home import web_files

FOLDER = Path(__file__).parents[2] / "service" / "web"
FILES = {file.path: file for file in web_files()}
TYPES = {
    "": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def test_every_file_of_the_folder_is_served() -> None:
    assert {Path(path).name or "index.html" for path in FILES} == {file.name for file in FOLDER.iterdir()}


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_file_has_its_type_and_is_asked_for_anew_each_time(address: str, path: str) -> None:
    answer = httpx.get(address + path)
    assert (answer.status_code, answer.content) == (200, FILES[path].content)
    assert answer.headers["content-type"] == TYPES[path.rpartition(".")[2].removeprefix("/")]
    assert answer.headers["cache-control"] == "no-cache"
    head = httpx.head(address + path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "content-security-policy", "x-content-type-options"):
        assert head.headers[name] == answer.headers[name]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"another", {}', "*"])
def test_who_has_it_already_is_not_sent_it_again(address: str, form: str) -> None:
    etag = httpx.get(f"{address}/web/main.js").headers["etag"]
    for method in ("GET", "HEAD"):
        again = httpx.request(method, f"{address}/web/main.js", headers={"If-None-Match": form.format(etag)})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert again.headers["cache-control"] == "no-cache"
    other = httpx.get(f"{address}/web/main.js", headers={"If-None-Match": f"{etag[:-2]}x"})
    assert other.status_code == 200
    assert len({file.headers["ETag"] for file in FILES.values()}) == len(FILES)


def test_the_page_runs_its_own_files_alone_and_nothing_inline(address: str) -> None:
    page = httpx.get(address)
    assert dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; ")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert (page.headers["x-frame-options"], page.headers["referrer-policy"]) == ("DENY", "no-referrer")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<style|<script>|\sstyle=|\son\w+=", page.text)


def test_what_it_loads_is_there_and_relative() -> None:
    """So that a proxy may serve it below a path of its own."""
    page = FILES["/"].content.decode()
    loaded = set(re.findall(r'(?:src|href)="(web/[^"]+)"', page))
    for path, file in FILES.items():
        if path.endswith(".js"):
            loaded |= {f"web/{name}" for name in re.findall(r'from "\./([\w.]+)"', file.content.decode())}
        assert not re.search(r"""["'`](/|https?://(?!www\.w3\.org/))[a-z]\w""", file.content.decode()), path
    assert {f"/{each}" for each in loaded} == FILES.keys() - {"/"}


@pytest.mark.parametrize(
    "path", ["/web", "/web/", "/index.html", "/web/index.html", "/web/../home.py", "/web/%2e%2e/home.py", "/home.py"]
)
def test_nothing_else_is_given_away(address: str, path: str) -> None:
    with httpx.Client() as client:
        request = client.build_request("GET", address)
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = client.send(request)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_the_page_is_only_read_and_stands_in_no_openapi(address: str) -> None:
    for path in ("/", "/web/main.js"):
        answer = httpx.post(address + path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert not [path for path in httpx.get(f"{address}/openapi.json").json()["paths"] if path in FILES]
