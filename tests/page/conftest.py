"""Pages in Chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, which tests in the tier ``browser`` need."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("These tests need playwright: pip install -e '.[test]'")
    if CHROMIUM is None:
        pytest.fail("These tests need Chromium or Chrome: apt-get install chromium")
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture()
def opened_page(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page's text. In the end there must be no message on its console, no dialog and no request."""
    problems: list[str] = []
    contexts = []

    def opened(text: str, *, width: int = 1280, **options: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("dialog", lambda dialog: problems.append(dialog.message))
        local = ("file:", "data:", "blob:")
        tab.on("request", lambda request: request.url.startswith(local) or problems.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert problems == []
