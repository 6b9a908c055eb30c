"""The API's description is complete and true: what two generators of clients and schemathesis ask of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

for needed in ("httpx", "fastapi", "uvicorn"):
    pytest.importorskip(needed)
from malformed_uploads import picture  # noqa: E402
from patchscaler.web.settings import MEDIA_TYPES, Options  # noqa: E402
from serving import Server  # noqa: E402

OPERATIONS = {
    ("get", "/api/about"): "about",
    ("post", "/api/jobs"): "create_job",
    ("get", "/api/jobs/{id}"): "get_job",
    ("delete", "/api/jobs/{id}"): "delete_job",
    ("get", "/api/jobs/{id}/events"): "follow_job",
    ("get", "/api/jobs/{id}/map"): "get_map",
    ("get", "/api/jobs/{id}/preview"): "get_preview",
    ("get", "/api/jobs/{id}/input"): "get_input",
    ("get", "/api/jobs/{id}/result"): "get_result",
}


@pytest.fixture(scope="module")
def described(server: Server) -> dict[str, Any]:
    return server.client.get("/openapi.json").json()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_has_a_name_of_its_own(described: dict[str, Any]) -> None:
    assert {(method, path): entry["operationId"] for method, path, entry in operations(described)} == OPERATIONS


def test_every_body_has_a_media_type_and_a_schema(described: dict[str, Any]) -> None:
    for method, path, operation in operations(described):
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for code, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                assert "*" not in media_type, (method, path, code)
                assert content["schema"], (method, path, code)
    result = described["paths"]["/api/jobs/{id}/result"]["get"]["responses"]["200"]["content"]
    assert set(result) == set(MEDIA_TYPES.values())


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    text = json.dumps(described)
    named = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named == set(described["components"]["schemas"]) - {"Options"}


def test_only_what_can_be_wrong_is_refused_with_422(described: dict[str, Any]) -> None:
    refusing = {path for _, path, operation in operations(described) if "422" in operation["responses"]}
    assert refusing == {"/api/jobs", "/api/jobs/{id}/result"}
    for _, _, operation in operations(described):
        problems = [body for code, body in operation["responses"].items() if code >= "400"]
        assert {body["content"]["application/json"]["schema"]["$ref"] for body in problems} == {
            "#/components/schemas/Problem"
        }
    assert {"400", "403", "408", "413", "415", "422", "503"} <= set(
        described["paths"]["/api/jobs"]["post"]["responses"]
    )


def test_a_job_leads_to_all_that_can_be_done_with_it(described: dict[str, Any], server: Server) -> None:
    links = described["paths"]["/api/jobs"]["post"]["responses"]["202"]["links"]
    of_a_job = {name for (_, path), name in OPERATIONS.items() if "{id}" in path}
    assert {link["operationId"] for link in links.values()} == of_a_job
    assert {link["parameters"]["id"] for link in links.values()} == {"$response.body#/id"}
    assert server.post(picture(), quality="fast").json()["id"]


def test_what_a_job_does_not_have_yet_is_not_missing(server: Server) -> None:
    """A client that follows the links at once learns that the job is there."""
    jobs = [server.post(picture(number, 640, 640, "JPEG"), quality="best").json()["id"] for number in (20, 21)]
    for part in ("preview", "map", "result"):
        assert server.client.get(f"/api/jobs/{jobs[1]}/{part}").status_code == 409
    for job in jobs:
        server.client.delete(f"/api/jobs/{job}")


def test_a_status_has_what_is_described_and_all_options(described: dict[str, Any], server: Server) -> None:
    status = server.post(picture(), quality="fast", seed=2**63 - 1).json()
    schema = described["components"]["schemas"]["JobStatus"]
    assert set(schema["required"]) == set(schema["properties"]) == set(status)
    asked = {parameter["name"] for parameter in described["paths"]["/api/jobs"]["post"]["parameters"]}
    assert asked == set(Options.model_fields) <= set(status)
    assert status["seed"] == 2**63 - 1
    assert status["denoise"] is None
    (denoise,) = (one for one in described["paths"]["/api/jobs"]["post"]["parameters"] if one["name"] == "denoise")
    assert not denoise["required"]
    assert denoise["schema"]["anyOf"] == [{"type": "number", "maximum": 1, "minimum": 0}, {"type": "null"}]
    assert server.post(picture(), quality="fast", denoise=0.5).json()["denoise"] == 0.5
    assert server.post(picture(), quality="fast", denoise="null").json()["denoise"] is None
    assert server.post(picture(), quality="fast", denoise=1.1).status_code == 422


def test_head_is_get_without_its_body(server: Server) -> None:
    job = server.post(picture(7), quality="fast").json()["id"]
    server.wait(job)
    for path in ("/api/about", *(f"/api/jobs/{job}{part}" for part in ("", "/map", "/preview", "/input", "/result"))):
        head, get = server.client.head(path), server.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != f"/api/jobs/{job}":  # whose time is another every time
            assert head.headers["content-length"] == str(len(get.content))
    assert server.client.head("/api/jobs/nobody").status_code == 404


def test_the_head_of_a_stream_comes_at_once(server: Server) -> None:
    job = server.post(picture(8, 700, 700, "JPEG"), quality="best").json()["id"]
    answer = server.client.head(f"/api/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert server.client.get(f"/api/jobs/{job}").json()["state"] in ("queued", "running")
    server.client.delete(f"/api/jobs/{job}")
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_told_which_ones_there_are(server: Server, described: dict[str, Any], method: str) -> None:
    for path, methods in described["paths"].items():
        answer = server.client.request(method, path.replace("{id}", "x"))
        allowed = {name.upper() for name in methods} | ({"HEAD"} if "get" in methods else set())
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert answer.json() == {"detail": "Method Not Allowed"}
