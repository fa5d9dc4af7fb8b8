"""``flywheel serve-sandbox``: programs run here for other machines."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

import typer

from flywheel.cli.options import task_args
from flywheel.errors import UserError


def command(
    host: Annotated[str, typer.Option(help="Address to listen at; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8181,
    executor: Annotated[str, typer.Option(help="What runs the programs: local, or container.")] = "local",
    arg: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the executor; repeatable.")
    ] = None,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; further ones are sent away.")] = 64,
) -> None:
    """Run programs for other machines, safely: over HTTP, with SandboxFusion's /run_code and with flywheel's own jobs.

    With FLYWHEEL_SANDBOX_TOKEN in the environment, requests must bear that token.
    """
    from flywheel.sandbox import make_executor
    from flywheel.sandbox.remote import TOKEN, token_of_environment
    from flywheel.sandbox.server import make_app

    token = token_of_environment()
    listening = _listen(host, port)
    if token is None and not ipaddress.ip_address(listening.getsockname()[0]).is_loopback:
        listening.close()
        raise UserError(
            f"at {host} anyone who reaches this machine could run programs on it",
            hint=f"choose a secret: {TOKEN}=… flywheel serve-sandbox --host {host}; clients read the same variable",
        )
    programs = make_executor({"use": executor, **task_args(arg)})
    try:
        app = make_app(programs, waiting, token)
        can = programs.capabilities()
        print(f"http://{host}:{listening.getsockname()[1]}", flush=True)
        print(f"{can.executor} executor, {can.level}, {can.parallel} programs at once: {', '.join(can.languages)}")
        print("\n".join(can.remarks), flush=True)
        _serve(app, listening)
    finally:
        programs.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host} port {port}: {error.strerror}", hint="choose another --port"
        ) from error


def _serve(app: object, listening: socket.socket) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise UserError("serving needs uvicorn, which is not installed", hint="pip install 'flywheel[code]'") from error
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=75)  # type: ignore[arg-type]
    uvicorn.Server(config).run(sockets=[listening])
