"""`patchscaler serve`: a page in the browser and an HTTP API, for this computer or a network."""

import ipaddress
from typing import Annotated

import typer

from patchscaler.cli.options import Device, Model
from patchscaler.errors import ConfigError, PatchScalerError

MIB = 2**20
EXTRA = 'install it with: pip install "patchscaler[web]"'


def serve(
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 lets the whole network in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 7860,
    model: Model = "tiny",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="pictures enlarged at the same time")] = 1,
    queue: Annotated[int, typer.Option(min=1, help="pictures that may wait or run; more are refused")] = 64,
    max_megabytes: Annotated[float, typer.Option(help="of an upload")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(help="of a picture that comes in")] = 4.0,
    max_minutes: Annotated[float, typer.Option(help="that one picture may take")] = 30.0,
    keep_minutes: Annotated[float, typer.Option(help="that a result is kept, unless it is deleted before")] = 15.0,
    page: Annotated[bool, typer.Option("--page/--no-page", help="the page, or the API alone")] = True,
) -> None:
    """Enlarge pictures in the browser, or for programs by an HTTP API (its description: /openapi.json).

    Nothing is kept: pictures and results lie in a temporary folder and go with their job.
    """
    try:
        from patchscaler.web.api import create_app
        from patchscaler.web.page import add_page
        from patchscaler.web.server import Server
    except ModuleNotFoundError as error:
        raise PatchScalerError(f"the server needs {error.name}; {EXTRA}") from error
    from patchscaler.upscaler import Upscaler
    from patchscaler.web.settings import Limits

    limits = Limits(
        max_bytes=round(max_megabytes * MIB),
        max_pixels=round(max_megapixels * 1e6),
        queue=queue,
        job_seconds=max_minutes * 60,
        keep_seconds=keep_minutes * 60,
    )
    app = create_app(Upscaler(model, device=device), limits, workers=workers, loopback=is_loopback(host))
    if page:
        add_page(app)

    server = Server(app, host, port)
    where = f"http://{'[' + host + ']' if ':' in host else host}:{server.port}"
    typer.echo(f"PatchScaler serves at {where}{'' if page else '/api/jobs, description: ' + where + '/openapi.json'}")
    if not is_loopback(host):
        typer.echo("It asks nobody who they are: everyone who reaches this address may use it.", err=True)
    server.serve_until_asked_to_stop()


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach the address; raises ConfigError for a name other than localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"--host {host}: give an address, such as 127.0.0.1, 0.0.0.0 or ::1") from None
