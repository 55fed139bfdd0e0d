"""Hosts that are network, UTS, mount and PID namespaces of this machine, joined by a switch in one more.

To be used by a process that is alone in a network namespace of its own: the machine's network is never touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

_UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


class Host:
    """One host: its processes end with its first one.

    Args:
        name: its host name.
        address: its IPv4 address.
        hosts_file: what it resolves names by.
    """

    def __init__(self, name: str, address: str, hosts_file: Path) -> None:
        self.name, self.address = name, address
        setup = f"hostname {name} && mount --bind {hosts_file} /etc/hosts && ip link set lo up && exec sleep infinity"
        self._unshare = subprocess.Popen([*_UNSHARE, "bash", "-c", setup])
        self.pid = _only_child(self._unshare.pid)
        while Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[0] != b"sleep":
            time.sleep(0.01)

    def command(self, *words: str) -> list[str]:
        """A command as it is run on this host."""
        return ["nsenter", "-t", str(self.pid), "-n", "-u", "-m", "-p", *words]

    def run(self, *words: str) -> None:
        """Run a command there, and wait for it."""
        subprocess.run(self.command(*words), check=True, capture_output=True)

    def processes(self, word: str) -> list[psutil.Process]:
        """The host's processes that have this word on their command line, or for a name, by their age."""
        namespace = os.readlink(f"/proc/{self.pid}/ns/uts")
        found = []
        for process in psutil.process_iter():
            try:
                named = word in " ".join([process.name(), *process.cmdline()])
                if named and os.readlink(f"/proc/{process.pid}/ns/uts") == namespace:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        # Not the nsenter that waits for it from outside.
        return sorted((p for p in found if p.name() != "nsenter"), key=lambda p: p.create_time())

    def crash(self) -> None:
        """As if the power had failed."""
        os.kill(self.pid, signal.SIGKILL)
        self._unshare.wait()


class Network:
    """Hosts 10.9.0.1, 10.9.0.2, ... with these names, each with a decoy `docker0` that leads nowhere.

    A second network, 10.8.0.0/24, joins the same hosts; names don't lead there.
    """

    def __init__(self, names: list[str], directory: Path) -> None:
        addresses = {name: f"10.9.0.{number}" for number, name in enumerate(names, start=1)}
        hosts_file = directory / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        hosts_file.write_text("\n".join(lines) + "\n")
        self._switch = Host("switch", "", hosts_file)
        for bridge in ("br0", "br1"):
            self._switch.run("ip", "link", "add", bridge, "type", "bridge")
            self._switch.run("ip", "link", "set", bridge, "up")
        self.hosts = {name: Host(name, address, hosts_file) for name, address in addresses.items()}
        for number, (name, host) in enumerate(self.hosts.items(), start=1):
            self._join(host, f"net{number}x", f"port-{name}", "br0", host.address)
            self._join(host, f"back{number}x", f"back-{name}", "br1", f"10.8.0.{number}")
            for words in (
                "link add docker0 type bridge",
                "address add 172.17.0.1/16 dev docker0",
                "link set docker0 up",
            ):
                host.run("ip", *words.split())

    def _join(self, host: Host, near: str, far: str, bridge: str, address: str) -> None:
        link = ["ip", "link", "add", "name", near, "netns", str(host.pid), "type", "veth"]
        subprocess.run([*link, "peer", "name", far, "netns", str(self._switch.pid)], check=True)
        self._switch.run("ip", "link", "set", far, "master", bridge)
        self._switch.run("ip", "link", "set", far, "up")
        host.run("ip", "address", "add", f"{address}/24", "dev", near)
        host.run("ip", "link", "set", near, "up")

    def partition(self, name: str) -> None:
        """Nothing reaches the host, and nothing leaves it; nobody is told."""
        self._switch.run("ip", "link", "set", f"port-{name}", "nomaster")

    def heal(self, name: str) -> None:
        """Join the host to the switch."""
        self._switch.run("ip", "link", "set", f"port-{name}", "master", "br0")


def _only_child(pid: int) -> int:
    while not (children := psutil.Process(pid).children()):
        time.sleep(0.01)
    return int(children[0].pid)
