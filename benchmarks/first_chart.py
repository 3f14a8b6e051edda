"""How long until the first chart of each page can be seen, on a slow line? A browser, a host that compresses, a throttle.

.venv/bin/python benchmarks/first_chart.py [SITE]   # SITE: _build/html
"""

import functools
import gzip
import shutil
import statistics
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

BITS_PER_SECOND, LATENCY_MS = 1.6e6, 150  # what browsers call slow 4G
SEEN = """() => new Promise(done => {
  const look = () => {
    const svg = document.querySelector('figure.statedepth-chart svg');
    if (svg && svg.getBoundingClientRect().width > 50 && performance.getEntriesByName('first-contentful-paint').length)
      requestAnimationFrame(() => done(performance.now()));
    else requestAnimationFrame(look);
  };
  look();
})"""


class Compressing(SimpleHTTPRequestHandler):
    """Files with gzip, as every host of static pages sends them."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        packs = path.suffix in {".html", ".css", ".js", ".svg", ".csv", ".json"}
        body = gzip.compress(body) if packs else body
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(len(body)))
        if packs:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(site: Path) -> None:
    """Print, page by page, the median of three times in seconds."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Compressing, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = [p for p in sorted(site.glob("*.html")) if 'class="statedepth-chart"' in p.read_text()]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        for page in pages:
            times = []
            for _ in range(3):
                view = browser.new_context(viewport={"width": 390, "height": 844}).new_page()  # nothing cached
                wire = view.context.new_cdp_session(view)
                wire.send("Network.enable")
                speed = BITS_PER_SECOND / 8
                wire.send("Network.emulateNetworkConditions", {"offline": False, "latency": LATENCY_MS, "downloadThroughput": speed, "uploadThroughput": speed})  # fmt: skip
                view.goto(f"http://127.0.0.1:{server.server_port}/{page.name}", wait_until="commit")
                times.append(view.evaluate(SEEN) / 1000)
                view.context.close()
            print(f"{page.stem}: first chart after {statistics.median(times):.2f} s", flush=True)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html"))
