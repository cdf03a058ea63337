"""Texts checked by rule and by a language model, whose server is a small one of our own that can be made to fail."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from uniadgen.config import StagesConfig
from uniadgen.data import llm
from uniadgen.data.llm import Judge, Question, Verdict
from uniadgen.data.support import unsupported

# by rule


@pytest.mark.parametrize(
    ("text", "points", "words", "share"),
    [
        ("Now with gift box and dishwasher-safe!", ["gift boxes", "dishwasher safe"], [], 0.0),
        ("50% off merino socks", ["merino sock", "5 pairs"], ["50"], 1 / 3),
        ("the brand's glasses, best in glassware", ["glass", "brand"], ["best", "glassware"], 0.5),
        ("The and with you", ["gift box"], [], 0.0),
        ("家用马克杯，更有礼盒包装", ["礼盒包装", "家用马克杯"], [], 0.0),
        ("纯棉毛巾，终身质保", ["纯棉毛巾"], ["终身质保"], 0.5),
        ("毛纯巾棉", ["纯棉毛巾"], ["毛纯巾棉"], 1.0),
        ("", ["light"], [], 0.0),
    ],
)
def test_words_that_no_selling_point_has(text: str, points: list[str], words: list[str], share: float) -> None:
    found, lost = unsupported(text, points)
    assert found == words
    assert lost == pytest.approx(share)


# by a language model


@dataclass
class Server:
    """What the small server was asked, and what it is to answer next before it answers well."""

    url: str = ""
    failures: list[Any] = field(default_factory=list)  # a status, or the text of a reply
    asked: list[list[dict]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    held: int = 0  # so many at once end the wait
    wait: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """It supports every text without `false` in it."""
    state, lock = Server(), threading.Lock()
    state.wait.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions" and body["model"] == "judge"
            items = json.loads(body["messages"][1]["content"])
            with lock:
                state.asked.append(items)
                state.keys.append(self.headers["Authorization"])
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                failure = state.failures.pop(0) if state.failures else None
                if state.at_once == state.held:
                    state.wait.set()
            state.wait.wait(5)
            with lock:
                state.at_once -= 1
            if isinstance(failure, int):
                self.answer(failure, b"too busy")
                return
            verdicts = [
                {"item": item["item"], "supported": "false" not in item["text"], "unsupported": "x"} for item in items
            ]
            reply = failure if failure is not None else f"Sure:\n```json\n{json.dumps({'verdicts': verdicts})}\n```"
            self.answer(200, json.dumps({"choices": [{"message": {"content": reply}}]}).encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 307:
                self.send_header("Location", "http://localhost:1/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    monkeypatch.setattr(llm, "PAUSE", 0.001)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    state.wait.set()
    http.shutdown()
    thread.join()
    http.server_close()


def stages(server: Server, **changes: Any) -> StagesConfig:
    values = {"cleaning": "llm", "llm_url": server.url, "llm_model": "judge", "texts_per_request": 2, "llm_tries": 3}
    return StagesConfig(**values | changes)


QUESTIONS = [Question(text, ("light", "gift box")) for text in ("a", "false b", "c", "d", "false e")]
EXPECTED = [Verdict("false" not in question.text, "x") for question in QUESTIONS]


def test_several_texts_go_in_a_request_and_several_requests_at_once(server: Server) -> None:
    server.held = 2  # neither is answered before both are there
    server.wait.clear()
    assert Judge(stages(server, requests_at_once=2))(QUESTIONS) == EXPECTED
    assert sorted(len(items) for items in server.asked) == [1, 2, 2]
    assert server.most_at_once == 2
    assert {"item": 1, "text": "a", "selling_points": ["light", "gift box"]} in [items[0] for items in server.asked]


def test_the_key_comes_from_the_environment_and_goes_only_to_the_server(server: Server, monkeypatch) -> None:
    Judge(stages(server))(QUESTIONS[:1])
    monkeypatch.setenv(llm.KEY, "secret")
    Judge(stages(server))(QUESTIONS[:1])
    assert server.keys == [None, "Bearer secret"]
    server.failures = [307]
    with pytest.raises(ValueError, match="answered 307"):
        Judge(stages(server))(QUESTIONS[:1])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.failures = [status, status]
    assert Judge(stages(server))(QUESTIONS[:2]) == EXPECTED[:2]
    assert len(server.asked) == 3
    server.failures = [status] * 3
    with pytest.raises(ConnectionError, match=rf"in 3 tries \({status} too busy\): run the same command again later"):
        Judge(stages(server))(QUESTIONS[:2])


def test_a_slow_server_is_given_up_after_its_tries(server: Server) -> None:
    server.wait.clear()
    with pytest.raises(ConnectionError, match="did not answer in 2 tries"):
        Judge(stages(server, llm_timeout=0.1, llm_tries=2))(QUESTIONS[:1])
    assert len(server.asked) == 2


def test_a_server_that_refuses_is_not_asked_again(server: Server) -> None:
    server.failures = [401]
    with pytest.raises(ValueError, match=r"answered 401 too busy.*environment variable UNIADGEN_LLM_KEY"):
        Judge(stages(server))(QUESTIONS[:1])
    assert len(server.asked) == 1


def test_no_server_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "PAUSE", 0.001)
    with pytest.raises(ConnectionError, match="did not answer in 3 tries"):
        Judge(stages(Server("http://127.0.0.1:9/v1")))(QUESTIONS[:1])


def test_what_was_not_answered_is_asked_once_more_and_then_left_open(server: Server) -> None:
    half = json.dumps({"verdicts": [{"item": 2, "supported": False}]})
    server.failures = ["I cannot say.", "{}"]
    assert Judge(stages(server, requests_at_once=1))(QUESTIONS[:2]) == [None, None]
    assert len(server.asked) == 2
    server.failures = [half]
    assert Judge(stages(server, requests_at_once=1))(QUESTIONS[:2]) == [Verdict(True, "x"), Verdict(False, "")]
    assert [item["text"] for item in server.asked[-1]] == ["a"]


@pytest.mark.parametrize(
    "entry",
    [
        {"item": 1, "supported": "yes"},
        {"item": "1", "supported": True},
        {"item": True, "supported": True},
        {"item": 3, "supported": True},
        {"item": 0, "supported": True},
    ],
)
def test_a_malformed_verdict_is_none(entry: dict) -> None:
    good = {"item": 2, "supported": True, "unsupported": None}
    assert llm.read_reply(json.dumps({"verdicts": [entry, good]}), 2) == [None, Verdict(True, "")]


@pytest.mark.parametrize(
    "reply", ["", "{", "}{", "[1]", '{"verdicts": 3}', '{"verdicts": [3]}', '{"verdicts": [{}]}', "{" * 9999]
)
def test_a_malformed_reply_has_no_verdicts(reply: str) -> None:
    assert llm.read_reply(reply, 2) == [None, None]


def test_two_verdicts_on_one_text_are_none() -> None:
    entries = [{"item": 1, "supported": True}, {"item": 1, "supported": False}, {"item": 2, "supported": True}]
    assert llm.read_reply(json.dumps({"verdicts": entries}), 2) == [None, Verdict(True, "")]


def test_the_estimate_counts_requests_tokens_and_price() -> None:
    one, many = (
        llm.estimate(QUESTIONS * n, stages(Server("http://x/v1"), price_in=2.0, price_out=10.0)) for n in (1, 4)
    )
    assert (one.requests, many.requests) == (3, 10)
    assert one.tokens_in > 3 * len(llm.INSTRUCTION) / 5
    assert many.tokens_in == pytest.approx(10 / 3 * one.tokens_in, rel=0.1)
    assert one.price == pytest.approx((2 * one.tokens_in + 10 * one.tokens_out) / 1e6)
    assert llm.tokens_of("纯棉毛巾") == 4 and llm.tokens_of("cotton") == 2
