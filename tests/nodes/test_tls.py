"""A scheduler with TLS, with certificates as Dask's own configuration has them."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import free_port
from machines import CONFIG, RECIPE, Machines, assert_same

from ser_batch.cluster import scan_on
from ser_batch.errors import RunError
from ser_batch.nodes.dask import check_address

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
dask = pytest.importorskip("dask", reason="the extra dask is not installed")
pytest.importorskip("cryptography", reason="makes certificates")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make one that vouches for itself, for this machine; return it and its key."""
    from cryptography import x509  # noqa: PLC0415 - may be missing
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secured(machines: Machines, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a scheduler with a worker, and the configuration that a client needs."""
    certificate, key = map(str, make_certificate(tmp_path))
    tls = ["--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key]
    port, log = str(free_port()), str(tmp_path / "log")
    options = ["--host", "127.0.0.1", "--port", port, "--protocol", "tls", *tls]
    scheduler = machines.ask(do="dask", arguments=["scheduler", *options], log=log)
    options = ["--no-nanny", "--memory-limit", "0", "--local-directory", str(tmp_path / "dask"), *tls]
    worker = machines.ask(do="dask", arguments=["worker", f"tls://127.0.0.1:{port}", *options], log=log)
    prefix = "distributed.comm.tls"
    config = {f"{prefix}.ca-file": certificate, f"{prefix}.client.cert": certificate, f"{prefix}.client.key": key}
    yield f"127.0.0.1:{port}", config
    for pid in (worker, scheduler):
        os.kill(pid, signal.SIGKILL)
        machines.end(pid)


def test_a_scheduler_with_tls_is_used_with_the_certificates_of_dask_and_by_nobody_else(
    secured: tuple[str, dict[str, str]],
    archive: Path,
    local: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where, config = secured
    run = tmp_path / "run"
    with dask.config.set(config):
        address = check_address(f"dask:tls://{where}", is_trusted=False)
        scan_on(address, archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert_same(run, local)
    monkeypatch.setattr("ser_batch.nodes.dask._CONNECT_S", 2.0)
    for address in (f"tls://{where}", f"tcp://{where}"):
        with pytest.raises(RunError, match="No Dask scheduler answers at ") as told:
            scan_on(address, archive, tmp_path / "other", config=CONFIG, plugins=RECIPE, report=False)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "other").exists()
