"""A small OpenAI-compatible server for tests, which answers as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], tuple[int, Any]]) -> Iterator[str]:
    """Its address; `answer` gets the body of a request and says with which status and JSON it is answered."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, told = answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(told).encode()
            self.send_response(status if self.path == "/v1/chat/completions" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
