"""The documentation as a site: it is built without a warning, and asks nothing of other hosts."""

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import opened, overflows
from conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_reader_goes_from_page_to_page_and_finds_things(site):
    with opened(f"{site}/index.html") as (page, trouble):
        assert page.title().startswith("psr-ray")
        page.get_by_role("link", name="Concepts").first.click()
        page.wait_for_url("**/concepts.html")
        broken = page.eval_on_selector_all("img", "all => all.filter(i => !i.naturalWidth).length")
        assert broken == 0
        assert trouble == []
        page.locator("input[name=query]").click()
        page.keyboard.type("nll_weight")
        page.locator(".md-search-result__item").first.wait_for(timeout=15_000)


@pytest.mark.parametrize("name", ["index", "settings", "concepts", "troubleshooting"])
def test_its_pages_fit_a_narrow_screen(site, name):
    with opened(f"{site}/{name}.html", width=360, height=700) as (page, trouble):
        assert not overflows(page)
        assert trouble == []
