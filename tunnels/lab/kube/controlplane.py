"""A real Kubernetes control plane on this machine: etcd, kube-apiserver and, where asked, controllers and scheduler.

    with ControlPlane(folder, find_programs()) as plane:
        create_node(plane.admin, "a")
        plane.pause_api()                                       # requests hang …
        plane.resume_api()
        plane.stop_api()                                        # … or are refused
        plane.start_api()                                       # same port, same data
        plane.wipe()                                            # all objects lost
        assert len(plane.requests(user="admin", verb="create", resource="nodes")) == 1

There is no kubelet: nodes are objects (objects.py), and whoever needs a pod to run plays its kubelet (kubelet.py).
Without controllers nothing deletes what a deleted owner leaves, and namespaces have no service account `default`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import urllib3
from linkseal.tunnels.lab.daemons import Daemon, DaemonError, Port
from linkseal.tunnels.lab.kube.api import Api, ApiError, Recorder
from linkseal.tunnels.lab.kube.credentials import (
    Credentials,
    Request,
    make_credentials,
    read_audit,
    write_kubeconfig,
)
from linkseal.tunnels.lab.kube.served import Served

START_SECONDS = 120.0
"""Ready after 4 s on an idle machine; past this it hangs."""

TOOL_SECONDS = 120.0

LOOPBACK = "127.0.0.1"

ISSUER = "https://kubernetes.default.svc"
"""Issuer and audience of service accounts' tokens."""

SERVICES = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
"""Of the service `kubernetes`: the first of the services' addresses."""

CONTROLLERS = "*,-node-ipam-controller,-node-lifecycle-controller,-taint-eviction-controller"
"""Without the three that would take nodes without a kubelet for dead."""


class ControlPlane:
    """A control plane that runs from entry to exit. All its files, logs included, lie in `folder`.

    `address` is the IP address of this machine that the API server listens on; `controllers` and `scheduler` say
    whether kube-controller-manager and kube-scheduler run; `kubelets` names the nodes that get a kubelet's token;
    `endpoints` has the API server say in EndpointSlices of `default/kubernetes` where it is;
    without `audit` there is no audit log, which grows for ever.
    `programs` is the folder that they all are in. Entry raises DaemonError where one does not start, OSError where
    `address` is none of this machine's; what had been started is ended then.
    """

    def __init__(
        self,
        folder: Path,
        programs: Path,
        *,
        address: str = LOOPBACK,
        controllers: bool = False,
        scheduler: bool = False,
        kubelets: Sequence[str] = (),
        endpoints: bool = False,
        audit: bool = True,
    ) -> None:
        self.folder = folder
        self._programs = programs
        self._kubelets = tuple(kubelets)
        self._endpoints = endpoints
        self._audit = audit
        self._address = address
        self._optional = [("kube-controller-manager", controllers), ("kube-scheduler", scheduler)]
        self._ports: list[Port] = []
        self._daemons: dict[str, Daemon] = {}
        self._starter = ThreadPoolExecutor(1)
        self._admin: Api | None = None

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self._start_etcd()
            self.start_api()
            self._start_others()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._server

    @property
    def address(self) -> str:
        """Address that the API server listens on."""
        return self._address

    @property
    def port(self) -> int:
        """Its TCP port."""
        return self._ports[0].number

    @property
    def ca_file(self) -> Path:
        """Certificate of the CA that the API server's own is signed by."""
        return self._credentials.ca

    @property
    def admin_token(self) -> str:
        """Bearer token of the user `admin` in the group `system:masters`."""
        return self._credentials.admin_token

    def kubelet_token(self, node: str) -> str:
        """Bearer token of the kubelet of a node that was named at the beginning."""
        return self._credentials.kubelet_tokens[node]

    @property
    def admin(self) -> Api:
        """Requests of the admin, who may do everything."""
        assert self._admin is not None, "it was never started"
        return self._admin

    def served(self) -> Served:
        """Return what another process needs to work with it."""
        tokens = self._credentials.kubelet_tokens
        return Served(self.server, self.address, self.port, self.ca_file, self.admin_token, tokens)

    def recorder(self) -> Recorder:
        """Another `admin`, which can delete all that was made through it; the caller closes it."""
        return Recorder(self.server, self.ca_file, self.admin_token)

    def kubeconfig(self, path: Path, token: str = "") -> Path:
        """Write a kubeconfig for the admin or for another token; it needs no other file. The path."""
        return write_kubeconfig(path, self.server, self.ca_file, token or self.admin_token)

    def pids(self) -> dict[str, int]:
        """Numbers of the running programs' processes by the programs' names."""
        return {name: daemon.pid for name, daemon in self._daemons.items() if daemon.runs}

    def stop_api(self, *, kill: bool = False) -> None:
        """End the API server, in good order or by SIGKILL: its port refuses connections until `start_api`."""
        daemon = self._daemons["kube-apiserver"]
        if kill:
            daemon.kill()
        else:
            daemon.stop()

    def start_api(self) -> None:
        """Start the API server, with the data that etcd has, and wait until it is ready; DaemonError if it is not."""
        daemon = self._daemons["kube-apiserver"]
        daemon.start()
        daemon.wait_until(self.is_ready, "getting ready", START_SECONDS)

    def pause_api(self) -> None:
        """Freeze the API server: connections open, and nothing answers, as behind a path that loses all packets."""
        self._daemons["kube-apiserver"].pause()

    def resume_api(self) -> None:
        """Let a frozen API server go on."""
        self._daemons["kube-apiserver"].resume()

    def lose_power(self) -> None:
        """Kill all of it; what etcd has written stays."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()

    def boot(self) -> None:
        """Start all of it again, after `lose_power`. DaemonError where a program does not start."""
        self._start_etcd()
        self.start_api()
        self._start_others()

    def wipe(self) -> None:
        """Lose all objects, as a cluster set up anew in the same place would: same address, CA, keys and tokens."""
        self.lose_power()
        shutil.rmtree(self.folder / "etcd")
        self.boot()

    def is_ready(self) -> bool:
        """Whether the API server says so and has made the namespaces that every cluster has."""
        try:
            self.admin.request("GET", "/readyz", timeout=5.0)
            self.admin.request("GET", "/api/v1/namespaces/default", timeout=5.0)
            self.admin.request("GET", "/api/v1/namespaces/kube-system", timeout=5.0)
        except (ApiError, urllib3.exceptions.HTTPError):
            return False
        return True

    def audit_mark(self) -> int:
        """Where the audit log ends now, for `requests(since=…)`."""
        return self._audit_log.stat().st_size

    def requests(self, *, user: str = "", verb: str = "", resource: str = "", since: int = 0) -> list[Request]:
        """Requests so far, from an `audit_mark` on; those of this user, verb and resource where these are given.

        A request is written down before its answer ends. A watch counts from its begin, as one.
        """
        wanted = {"user": user, "verb": verb, "resource": resource}
        return [
            request
            for request in read_audit(self._audit_log, since)
            if all(not value or getattr(request, key) == value for key, value in wanted.items())
        ]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What the admin's kubectl prints; DaemonError with its complaint where it fails."""
        return self._tool("kubectl", arguments, stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """What the admin's Helm prints; DaemonError with its complaint where it fails."""
        return self._tool("helm", arguments, stdin)

    def log(self, program: str) -> Path:
        """Log of one of the programs: `etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`."""
        return self.folder / f"{program}.log"

    @property
    def _audit_log(self) -> Path:
        return self.folder / "audit.log"

    def _prepare(self) -> None:
        """Ports, files and command lines."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for address in (self._address, LOOPBACK, LOOPBACK):
            self._ports.append(Port(address))
        api, client, peer = (port.number for port in self._ports)
        host = f"[{self._address}]" if ":" in self._address else self._address
        self._server = f"https://{host}:{api}"
        self._etcd_url = f"http://{LOOPBACK}:{client}"
        self._credentials = make_credentials(self.folder, [self._address, LOOPBACK, SERVICE_ADDRESS], self._kubelets)
        self._admin = Api(self._server, self.ca_file, self.admin_token)
        self._kubeconfig = self.kubeconfig(self.folder / "admin.kubeconfig")
        self._audit_log.touch()
        self._add("etcd", etcd_options(self.folder / "etcd", self._etcd_url, f"http://{LOOPBACK}:{peer}"))
        self._add("kube-apiserver", [
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",  # else it wants a default route
            f"--secure-port={api}",
            *(audit_options(self._audit_log, self._credentials) if self._audit else ()),
            *api_options(self._credentials),
            f"--endpoint-reconciler-type={'lease' if self._endpoints else 'none'}",
        ])  # fmt: skip
        for name, wanted in self._optional:
            if wanted:
                self._add(name, other_options(name, self._kubeconfig, self._credentials))

    def _add(self, name: str, options: list[str]) -> None:
        self._daemons[name] = Daemon([str(self._programs / name), *options], self.log(name), self._starter)

    def _start_etcd(self) -> None:
        daemon = self._daemons["etcd"]
        daemon.start()
        daemon.wait_until(self._etcd_is_ready, "getting ready", START_SECONDS)

    def _etcd_is_ready(self) -> bool:
        try:
            return (
                urllib3.request("GET", f"{self._etcd_url}/readyz", timeout=5.0, retries=False).status == HTTPStatus.OK
            )
        except urllib3.exceptions.HTTPError:
            return False

    def _start_others(self) -> None:
        """Controllers and scheduler serve nothing here: that the controllers work shows in what they make."""
        for name, daemon in self._daemons.items():
            if name not in {"etcd", "kube-apiserver"}:
                daemon.start()
        if controllers := self._daemons.get("kube-controller-manager"):
            controllers.wait_until(self._has_default_account, "making a service account", START_SECONDS)

    def _has_default_account(self) -> bool:
        try:
            self.admin.get("/api/v1/namespaces/default/serviceaccounts/default")
        except ApiError:
            return False
        return True

    def _tool(self, name: str, arguments: tuple[str, ...], stdin: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self._kubeconfig)}
        return run_tool(self._programs / name, arguments, env, stdin)

    def _end(self) -> None:
        """The API server last but for etcd, so that the others find it while they end."""
        for daemon in reversed(self._daemons.values()):
            daemon.stop()
        for port in self._ports:
            port.close()
        if self._admin is not None:
            self._admin.close()
        self._starter.shutdown()


def run_tool(program: Path, arguments: Sequence[str], env: Mapping[str, str], stdin: str = "") -> str:
    """Return what kubectl or Helm prints. DaemonError with its complaint where it fails."""
    done = subprocess.run(
        [program, *arguments], env=env, input=stdin, text=True, capture_output=True, check=False, timeout=TOOL_SECONDS
    )
    if done.returncode:
        raise DaemonError(f"{program.name} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def etcd_options(data: Path, client: str, peer: str) -> list[str]:
    """One member, without waiting for the disk."""
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--socket-reuse-port",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def api_options(credentials: Credentials) -> list[str]:
    """As clusters have it: RBAC, NodeRestriction, tokens bound to pods."""
    return [
        "--permit-port-sharing",
        f"--tls-cert-file={credentials.certificate}",
        f"--tls-private-key-file={credentials.key}",
        f"--client-ca-file={credentials.ca}",
        f"--token-auth-file={credentials.tokens}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICES}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={credentials.accounts_key}",
        f"--service-account-signing-key-file={credentials.accounts_key}",
        "--shutdown-delay-duration=0s",
        "--shutdown-watch-termination-grace-period=0s",
    ]


def audit_options(log: Path, credentials: Credentials) -> list[str]:
    """Every request is written down."""
    return [
        f"--audit-log-path={log}",
        f"--audit-policy-file={credentials.audit_policy}",
        "--audit-log-mode=blocking",  # a test that has its answer finds it in the log
        "--audit-log-maxsize=4096",  # in MB: never a second file
    ]


def other_options(name: str, kubeconfig: Path, credentials: Credentials) -> list[str]:
    """Of kube-controller-manager or kube-scheduler."""
    options = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
    if name == "kube-controller-manager":
        options += [
            f"--controllers={CONTROLLERS}",
            f"--root-ca-file={credentials.ca}",
            f"--service-account-private-key-file={credentials.accounts_key}",
            f"--cluster-signing-cert-file={credentials.ca}",
            f"--cluster-signing-key-file={credentials.ca_key}",
        ]
    return options
