"""Who may speak to the backend, and in which form."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests

from backend import __version__
from backend.contract.messages import Health, from_json
from backend.server.settings import BLOB_LIMIT_BYTES, JSON_LIMIT_BYTES
from tests.backend.backend_process import TOKEN, WAIT_SECONDS, BackendProcess

AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}


def job(**changes: object) -> dict[str, object]:
    return {"job_id": uuid.uuid4().hex, "system": "echo", "task": "echo"} | changes


def test_handshake(backend: BackendProcess) -> None:
    assert set(json.loads(backend.first_line)) == {"port", "pid", "protocol", "build"}
    assert backend.handshake.pid == backend.process.pid
    assert backend.handshake.build == __version__


def test_health(backend: BackendProcess) -> None:
    health = from_json(Health, backend.call("GET", "/health").json())
    assert (health.protocol, health.device, health.pid) == (1, "auto", backend.process.pid)


def test_answers_are_not_held_back(backend: BackendProcess) -> None:
    """Nagle's algorithm with delayed acknowledgements costs 40 ms each answer; the fastest of twenty shows it."""
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        backend.call("GET", "/health")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.03


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer " + "0" * 64}, {"Authorization": TOKEN}])
@pytest.mark.parametrize("path", ["/health", "/jobs", "/nowhere", "/docs"])
def test_wrong_token(backend: BackendProcess, path: str, header: dict[str, str]) -> None:
    assert requests.get(backend.url + path, headers=header, timeout=WAIT_SECONDS).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:80", ""])
def test_forged_host(backend: BackendProcess, host: str) -> None:
    response = requests.get(backend.url + "/health", headers=AUTHORIZATION | {"Host": host}, timeout=WAIT_SECONDS)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "bad_input"


def test_localhost_is_allowed(backend: BackendProcess) -> None:
    headers = AUTHORIZATION | {"Host": f"localhost:{backend.handshake.port}"}
    assert requests.get(backend.url + "/health", headers=headers, timeout=WAIT_SECONDS).status_code == 200


def test_only_loopback_listens(backend: BackendProcess) -> None:
    connections = psutil.Process(backend.process.pid).net_connections()
    listening = [tuple(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", backend.handshake.port)]


@pytest.mark.parametrize("path", ["/nowhere", "/docs", "/openapi.json", "/jobs/" + "0" * 32, "/jobs/..%2f..",
                                  "/blobs/" + "0" * 64, "/blobs/short", f"/jobs/{'0' * 32}/events"])  # fmt: skip
def test_unknown_is_404(backend: BackendProcess, path: str) -> None:
    response = backend.call("GET", path)
    assert response.status_code == 404
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/jobs/x"), ("POST", "/jobs/x/applied")])
def test_unknown_job_is_404(backend: BackendProcess, method: str, path: str) -> None:
    assert backend.call(method, path).status_code == 404


def test_no_cors(backend: BackendProcess) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    response = backend.call("OPTIONS", "/health", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("body", [
    job(extra=1), job(job_id="../../etc/passwd"), job(job_id=7), job(inputs={"image": "/etc/passwd"}),
    job(inputs={"image": "0" * 64}), job(inputs=["image"]), job(system="nobody"), job(parameters=[1]), {}, [], 3, None,
])  # fmt: skip
def test_malformed_job_is_422(backend: BackendProcess, body: object) -> None:
    response = backend.call("POST", "/jobs", data=json.dumps(body))
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "bad_input"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000,
                                  b'{"a": ' + b"9" * 10_000 + b"}"])  # fmt: skip
def test_malformed_json_is_422(backend: BackendProcess, body: bytes) -> None:
    assert backend.call("POST", "/jobs", data=body).status_code == 422


@pytest.mark.parametrize("after", ["-1", "x", "1e3", str(2**70)])
def test_malformed_query_is_422(backend: BackendProcess, after: str) -> None:
    assert backend.call("GET", "/events", params={"after": after}).status_code == 422


def test_announced_huge_body_is_413_at_once(backend: BackendProcess) -> None:
    for path, limit in (("/jobs", JSON_LIMIT_BYTES), (f"/blobs/{'0' * 64}", BLOB_LIMIT_BYTES)):
        connection = http.client.HTTPConnection("127.0.0.1", backend.handshake.port, timeout=WAIT_SECONDS)
        connection.putrequest("POST" if path == "/jobs" else "PUT", path)
        connection.putheader("Authorization", f"Bearer {TOKEN}")
        connection.putheader("Content-Length", str(limit + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_sent_huge_body_is_413(backend: BackendProcess) -> None:
    response = backend.call("POST", "/jobs", data=(b" " * 65536 for _ in range(JSON_LIMIT_BYTES // 65536 + 1)))
    assert response.status_code == 413
    assert backend.call("GET", "/health").status_code == 200


def test_mutated_requests_never_reach_a_defect(backend: BackendProcess) -> None:
    """Two hundred seeded mutations of a good request: each is refused in words, none is a 500."""
    generator = random.Random(7)
    values = (None, True, -1, 1e308, "", "x" * 1000, [], {}, [[]], {"a": {}}, "\ud800", "\x00", 2**70)
    for _ in range(200):
        body = job(system="nobody", inputs={"image": "0" * 64}, parameters={"seed": 1}, origin={})
        for _ in range(generator.randint(1, 3)):
            body[generator.choice([*body, "unknown"])] = generator.choice(values)
        response = backend.call("POST", "/jobs", data=json.dumps(body))
        assert response.status_code == 422, body
        assert response.json()["error"]["message"]


def test_two_hundred_requests_at_once(backend: BackendProcess) -> None:
    data = [f"blob {index}".encode() for index in range(50)]

    def request(index: int) -> int:
        path = ("/health", "/jobs", "/nowhere", f"/blobs/{hashlib.sha256(data[index // 4]).hexdigest()}")[index % 4]
        method, body = ("PUT", data[index // 4]) if path.startswith("/blobs") else ("GET", None)
        return requests.request(method, backend.url + path, headers=AUTHORIZATION, data=body, timeout=60).status_code

    started = time.monotonic()
    with ThreadPoolExecutor(200) as pool:
        statuses = list(pool.map(request, range(200)))
    assert statuses == [200, 200, 404, 201] * 50
    assert time.monotonic() - started < 30
