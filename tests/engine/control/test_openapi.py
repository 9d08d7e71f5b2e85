"""What the server takes and answers is what its OpenAPI document says."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ringblk.engine.control.drive_messages import DrivePatch, DrivePut
from ringblk.engine.control.messages import DriveBody, WorkersBody, decode_body
from ringblk.engine.drives.changes import ChangeRefused
from tests.rigs.control_client import DISK_BYTES, ControlClient, ControlledEngine
from tests.rigs.engine_rig import eventually
from tests.rigs.json_schema import faults, referred
from tests.rigs.many_drives import ManyDrives
from tests.rigs.metrics_text import read_metrics

METHODS = {"get", "put", "patch", "post", "delete"}
VALUES: list[Any] = [
    None, True, 0, 1, -1, 5, 128, 1.5, 1 << 62, 1 << 70,
    "", "x", "4K", "image", "raw", "on", "auto", "writeback", "writethrough",
    [], ["/tmp"], [1], {}, {"a": "b"}, {"a": 1},
    {"tokens": 5}, {"tokens": "5M", "period_ms": 3}, {"tokens": 0}, {"tokens": 5, "colour": 1},
    {"bandwidth": {"size": "1M", "refill_time": 100}}, {"ops": {"size": 5, "refill_time": 1}}, {"ops": {}},
]  # fmt: skip


@pytest.fixture(scope="module")
def sole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlClient]:
    engine = ControlledEngine(tmp_path_factory.mktemp("sole"), "--workers=1")
    yield engine.control
    engine.close()


@pytest.fixture(scope="module")
def many() -> Iterator[ManyDrives]:
    with ManyDrives({"vm1": {"workers": 1}}) as engine:
        yield engine


@pytest.fixture(scope="module")
def document(sole: ControlClient) -> dict[str, Any]:
    found: dict[str, Any] = sole.get("/openapi.json")
    return found


class Checked:
    """Asks, and sees that the answer is one of those that the document has."""

    def __init__(self, document: dict[str, Any], control: ControlClient) -> None:
        self.document = document
        self.control = control
        self.asked: set[tuple[str, str]] = set()

    def ask(self, method: str, target: str, body: object = None) -> int:
        pattern = next(
            pattern
            for pattern in self.document["paths"]
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), target.partition("?")[0])
        )
        responses = self.document["paths"][pattern][method.lower()]["responses"]
        self.asked.add((method.lower(), pattern))
        status, data = self.control.ask_raw(method, target, body)
        response = responses.get(str(status)) or responses[f"{status // 100}XX"]
        if "content" not in response:
            assert data == b""
            return status
        ((content_type, content),) = response["content"].items()
        answer = msgspec.json.decode(data) if content_type == "application/json" else data.decode()
        assert faults(answer, content["schema"], self.document) == []
        return status


def test_what_an_engine_with_one_drive_answers(document: dict[str, Any], sole: ControlClient) -> None:
    checked = Checked(document, sole)
    for target in ("/", "/stats", "/metrics", "/openapi.json"):
        assert checked.ask("GET", target) == 200
    limits: dict[str, object] = {"bps": 1 << 30, "iops_read": {"tokens": 5, "period_ms": 3}}
    assert checked.ask("PATCH", "/drive", {"size_bytes": DISK_BYTES, "partuuid": "p-1", **limits}) == 200
    assert checked.ask("PATCH", "/workers", {"count": 2}) == 200
    assert checked.ask("POST", "/pause") == 200
    assert checked.ask("GET", "/") == 200
    assert checked.ask("POST", "/resume") == 200
    assert checked.ask("PATCH", "/drive", {"colour": 1}) == 400
    assert checked.ask("PATCH", "/drive", b" " * 100_000) == 413
    assert checked.ask("GET", "/drives") == 409
    assert checked.ask("GET", "/stats?colour") == 400


def test_what_an_engine_with_a_list_of_drives_answers(document: dict[str, Any], many: ManyDrives) -> None:
    checked = Checked(document, many.control)
    for target in ("/drives", "/drives/vm1", "/drives/vm1/stats", "/stats", "/metrics", "/openapi.json"):
        assert checked.ask("GET", target) == 200
    assert checked.ask("GET", "/upgrade") == 200
    assert checked.ask("POST", "/drives/vm1/upgrade") == 200
    many.image("vm2").write_bytes(bytes(DISK_BYTES))
    settings = many.settings("vm2", workers=1, bps="100M")
    assert checked.ask("PUT", "/drives/vm2", settings) == 201
    assert checked.ask("PUT", "/drives/vm2", settings) == 200
    assert checked.ask("PUT", "/drives/vm2", {**settings, "num_queues": 2}) == 409
    assert checked.ask("PATCH", "/drives/vm2", {"is_paused": True, "iops": 500}) == 200
    assert checked.ask("GET", "/drives") == 200
    assert many.control.get("/stats")["drives"].keys() == {"vm1", "vm2"}
    metrics = read_metrics(many.control.ask_raw("GET", "/metrics")[1].decode())
    depths = metrics["ringblk_queue_depth"].samples
    assert [sample.labels["drive"] for sample in depths] == ["vm1", "vm2"]
    assert checked.ask("PATCH", "/drives/vm2", {"size_bytes": 1000}) == 400
    assert checked.ask("PUT", "/drives/-", settings) == 400
    assert checked.ask("DELETE", "/drives/vm2?force=perhaps") == 400
    assert checked.ask("DELETE", "/drives/vm2?force=true") == 204
    assert checked.ask("GET", "/drives/vm2") == 404
    program_id = many.control.get("/upgrade")["program_id"]
    assert checked.ask("POST", "/upgrade") == 200
    eventually(many.find_control_plane, "the next control plane")
    assert many.control.get("/upgrade")["program_id"] != program_id
    for method, target in (("GET", "/"), ("PATCH", "/drive"), ("PATCH", "/workers"), ("POST", "/pause")):
        body = {"count": 1} if target == "/workers" else {}
        assert checked.ask(method, target, body) == 409
    assert checked.ask("POST", "/resume") == 409
    ask_of_layers(checked, many)
    operations = {
        (method, pattern) for pattern, each in document["paths"].items() for method in each.keys() & METHODS
    }
    assert checked.asked == operations


def ask_of_layers(checked: Checked, many: ManyDrives) -> None:
    base = many.image("base")
    base.write_bytes(bytes(DISK_BYTES))
    vm3 = many.settings("vm3", base=str(base), overlay=str(base.with_name("layers")))
    assert checked.ask("PUT", "/drives/vm3", vm3) == 201
    assert checked.ask("POST", "/drives/vm3/snapshots", {"name": "a"}) == 201
    assert checked.ask("POST", "/drives/vm3/snapshots", {"name": "a"}) == 400
    assert checked.ask("POST", "/drives/vm3/snapshots", {"name": "a/b"}) == 400
    assert checked.ask("POST", "/drives/vm1/snapshots", {"name": "a"}) == 400
    assert checked.ask("POST", "/snapshots", {"name": "b", "drives": ["vm3"]}) == 201
    assert checked.ask("POST", "/snapshots", {"name": "b", "drives": []}) == 400
    assert checked.ask("GET", "/drives/vm3/snapshots") == 200
    assert checked.ask("GET", "/drives/vm3/changed?since=a") == 200
    assert checked.ask("GET", "/drives/vm3/changed") == 400
    assert checked.ask("PATCH", "/drives/vm3/job", {"bps": 1 << 20}) == 200
    assert checked.ask("POST", "/drives/vm3/commit") == 200
    assert checked.ask("POST", "/drives/vm3/flatten") == 200
    assert checked.ask("DELETE", "/drives/vm3/job") == 204
    assert checked.ask("DELETE", "/drives/vm3/snapshots/c") == 404
    assert checked.ask("DELETE", "/drives/vm3/snapshots/a") == 204
    assert checked.ask("POST", "/drives/vm3/reset", {}) == 200
    assert checked.ask("GET", "/drives") == 200


def test_the_document_holds_together(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    names = []
    for pattern, operations in document["paths"].items():
        assert operations.keys() <= METHODS
        for operation in operations.values():
            names.append(operation["operationId"])
            parameters = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert parameters == set(re.findall(r"{(\w+)}", pattern))
            assert operation["summary"]
    assert len(names) == len(set(names))
    refs = re.findall(r'"\$ref":"([^"]+)"', msgspec.json.encode(document).decode())
    assert refs
    for ref in refs:
        assert referred(ref, document)
    used = {ref.rpartition("/")[2] for ref in refs}
    assert used == document["components"]["schemas"].keys()


def test_both_kinds_of_engine_have_one_document(document: dict[str, Any], many: ManyDrives) -> None:
    assert many.control.get("/openapi.json") == document


@pytest.mark.parametrize("body_type", [DrivePut, DrivePatch, DriveBody, WorkersBody])
def test_a_body_is_taken_where_its_schema_takes_it(document: dict[str, Any], body_type: type[Any]) -> None:
    schema = document["components"]["schemas"][body_type.__name__]
    bodies: list[Any] = [{name: value} for name in body_type.__struct_fields__ for value in VALUES]
    for body in [*bodies, *VALUES, {"colour": 1}, {}]:
        try:
            decode_body(msgspec.json.encode(body), body_type)
            is_taken = True
        except ChangeRefused:
            is_taken = False
        if body_type is DrivePut and isinstance(body, dict) and "rate_limiter" in body:
            continue  # its form is looked at later
        found = faults(body, schema, document)
        assert (found == []) == is_taken, (body, found)
